//! Cases of kinds `token_moe` and `feature_moe`.

use super::{Case, Results, check_room};
use crate::config::{Activation, Capacity, CapacityScope, Experts, Gate, GateHidden, MoeConfig};
use crate::device::Device;
use crate::dtype::Element;
use crate::error::Result;
use crate::moe::{GradientMode, Layout, Moe, MoeInput, MoeState, Upstream};
use crate::parameters::{Param, Parameters};

/// The layer that a case is of, and its sizes.
struct Recorded {
    /// T; 1 in the feature mixture.
    tokens: usize,
    /// B.
    samples: usize,
    /// The dimensions in front of a tensor's last one: [T, B], or [B].
    rows: Vec<usize>,
    config: MoeConfig,
}

impl Recorded {
    fn read(case: &Case) -> Result<Recorded> {
        let samples = case.size("samples")?;
        let dense = case.text("kind")? == "feature_moe";
        let tokens = if dense { 1 } else { case.size("tokens")? };
        let rows = if dense { vec![samples] } else { vec![tokens, samples] };
        let experts = experts(case, "", case.size("experts")?, case.size("expert_width")?)?;
        let config = MoeConfig {
            width: case.size("width")?,
            gate: gate(case, "", || case.named("gate_activation"))?,
            experts,
            top_k: if dense { experts.count } else { case.size("top_k")? },
            renormalise: !dense && case.flag("renormalise")?,
            capacity: if dense { Capacity::None } else { case.size_or_null("capacity")?.map_or(Capacity::None, Capacity::Fixed) },
            capacity_scope: CapacityScope::Sample,
            shared_expert: case.has("shared.fc1.weight"),
            subtract_input: !dense && case.flag("subtract_input")?,
        };
        config.check().map_err(|why| case.error(why))?;
        Ok(Recorded { tokens, samples, rows, config })
    }

    /// The shape of a tensor with `last` numbers a row.
    fn shape(&self, last: usize) -> Vec<usize> {
        [self.rows.as_slice(), &[last]].concat()
    }
}

/// The experts of the layer whose parameters have `prefix` before their names.
pub(super) fn experts(case: &Case, prefix: &str, count: usize, width: usize) -> Result<Experts> {
    Ok(Experts {
        count,
        width,
        activation: case.named("expert_activation")?,
        gated: case.has(&format!("{prefix}{}", Param::ExpertsGluWeight.name())),
        bias: case.flag_or_true("expert_bias")?,
    })
}

/// The gate of that layer. One without a first map is linear.
pub(super) fn gate(case: &Case, prefix: &str, activation: impl FnOnce() -> Result<Activation>) -> Result<Gate> {
    let [first, bias] = [Param::GateFc1Weight, Param::GateFc1Bias].map(|p| format!("{prefix}{}", p.name()));
    let hidden = if case.has(&first) || case.has(&bias) {
        Some(GateHidden { width: case.shape(&first, 2)?[0], activation: activation()? })
    } else {
        None
    };
    Ok(Gate { hidden, bias: case.flag_or_true("gate_bias")? })
}

/// Runs the layer forward, and backward where the case has gradients from behind it.
pub(super) fn replay<T: Element>(case: &mut Case, device: &Device) -> Result<Results> {
    let recorded = Recorded::read(case)?;
    let config = &recorded.config;
    let (row, scores) = (recorded.shape(config.width), recorded.shape(config.experts.count));
    let x: Vec<T> = case.floats("x", &row)?;
    let mut parameters = Parameters::from_fn(|_| vec![]);
    for p in Param::ALL.into_iter().filter(|p| p.len(config) > 0) {
        parameters[p] = case.floats::<T>(p.name(), &p.shape(config))?;
    }
    let parameters = parameters.as_slices();
    let mut optional = |name: &str| case.has(name).then(|| case.floats(name, &scores)).transpose();
    let dweights: Option<Vec<T::Wide>> = optional("dweights")?;
    let dprobabilities = optional("dprobabilities")?;
    let dlogits = optional("dlogits")?;
    let dy: Option<Vec<T>> = case.has("dy").then(|| case.floats("dy", &row)).transpose()?;

    let rows = x.len() / config.width;
    check_room::<T::Wide>("the gate's hidden layer", &[rows, config.gate.hidden.map_or(0, |h| h.width)])?;
    check_room::<T::Wide>("the gate's logits", &[rows, config.experts.count])?;
    check_room::<T>("the experts' inner layer", &[rows, config.top_k, config.experts.width])?;
    let moe = Moe::on(config.clone(), device.clone())?;
    let input = MoeInput::new(&x, recorded.tokens, recorded.samples, Layout::TokensFirst);
    let mut y = vec![T::default(); x.len()];
    let mut state = MoeState::default();
    moe.forward(&parameters, &input, &mut y, &mut state)?;
    let mut results = Results::default();
    results.put("y", &row, &y);
    results.put("logits", &scores, &state.routing.logits);
    results.put("probabilities", &scores, &state.routing.probabilities);
    results.put("weights", &scores, &state.routing.weights);

    if dy.is_some() || dweights.is_some() || dprobabilities.is_some() || dlogits.is_some() {
        let dy = dy.unwrap_or_else(|| vec![T::default(); x.len()]);
        let upstream = Upstream {
            dy: &dy,
            dweights: dweights.as_deref(),
            dprobabilities: dprobabilities.as_deref(),
            dlogits: dlogits.as_deref(),
        };
        let mut dx = vec![T::default(); x.len()];
        let mut gradients = Parameters::<Vec<T>>::zeros(config)?;
        let mut slices = gradients.as_mut_slices();
        moe.backward(&parameters, &input, &state, &upstream, &mut dx, &mut slices, GradientMode::Overwrite)?;
        results.put("dx", &row, &dx);
        for p in Param::ALL.into_iter().filter(|p| p.len(config) > 0) {
            results.put(format!("d.{}", p.name()), &p.shape(config), &gradients[p]);
        }
    }
    Ok(results)
}
