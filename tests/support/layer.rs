//! Layers as the library checks them, and from recorded cases.

use super::Case;
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use fair_moe::check::{Layer, Results, every_axis};
use fair_moe::*;

/// A recorded case of kind `token_moe` or `feature_moe`.
pub fn recorded(case: &Case) -> Layer {
    let token = case.text("kind") == "token_moe";
    let (width, count) = (case.size("width"), case.size("experts"));
    let gate_hidden = case.shape("gate.fc1.weight")[0];
    let capacity = case.settings.get("capacity").and_then(|c| c.as_u64());
    let config = MoeConfig {
        width,
        gate: Gate {
            hidden: Some(GateHidden { width: gate_hidden, activation: case.text("gate_activation").parse().unwrap() }),
            bias: true,
        },
        experts: Experts {
            count,
            width: case.size("expert_width"),
            activation: case.text("expert_activation").parse().unwrap(),
            gated: false,
            bias: true,
        },
        top_k: if token { case.size("top_k") } else { count },
        renormalise: case.flag("renormalise"),
        capacity: capacity.map_or(Capacity::None, |c| Capacity::Fixed(c as usize)),
        capacity_scope: CapacityScope::Sample,
        shared_expert: false,
        subtract_input: case.flag("subtract_input"),
    };
    let optional = |name: &str| case.tensors.get(name).map(|t| t.1.clone());
    Layer {
        parameters: Parameters::from_fn(|p| optional(p.name()).unwrap_or_default()),
        x: case.get("x").to_vec(),
        tokens: if token { case.size("tokens") } else { 1 },
        samples: case.size("samples"),
        layout: Layout::TokensFirst,
        row_mask: None,
        rows_needed: None,
        dy: case.get("dy").to_vec(),
        dweights: optional("dweights"),
        dprobabilities: None,
        dlogits: optional("dlogits"),
        config,
    }
}
