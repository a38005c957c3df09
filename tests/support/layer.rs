//! Layers as the library checks them, and from recorded cases.

#![allow(dead_code, reason = "each test binary uses its own part")]

use super::{Case, assert_close, relative_l2};
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

/// Gradients that are (nearly) zero are measured against a thousandth of the largest.
pub fn check_against(what: &str, got: &Results, want: &Results, bound: f64, wide_bound: f64) {
    assert_eq!(got.routing.chosen, want.routing.chosen, "{what}: chosen experts");
    assert_eq!(got.routing.expert_offsets, want.routing.expert_offsets, "{what}: pairs an expert");
    assert_eq!(got.routing.pair_row, want.routing.pair_row, "{what}: pairs");
    assert_eq!(got.routing.row_pairs, want.routing.row_pairs, "{what}: pairs of a row");
    assert_close(&format!("{what} weights"), &got.routing.weights, &want.routing.weights, wide_bound);
    assert_close(&format!("{what} y"), &got.y, &want.y, bound);
    assert_close(&format!("{what} dx"), &got.dx, &want.dx, bound);
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let largest = Param::ALL.map(|p| norm(&want.gradients[p])).into_iter().fold(0.0, f64::max);
    for p in Param::ALL {
        let (got, want) = (&got.gradients[p], &want.gradients[p]);
        let error = relative_l2(got, want) * if norm(want) == 0.0 { 1.0 } else { norm(want) } / norm(want).max(largest * 1e-3);
        assert!(got.is_empty() || error <= bound, "{what} d.{}: {error:.3e} is above {bound:.1e}", p.name());
    }
}
