//! Logits = W2·act(W1·x + b1) + b2, or W2·x + b2; probabilities = softmax; the K likeliest experts of each row.

use super::{add_scaled, dot};
use crate::config::MoeConfig;
use crate::moe::{MoeInput, Routing};
use crate::parameters::{Param, Parameters};

/// hidden, logits, probabilities and chosen, for every row.
pub fn forward(config: &MoeConfig, parameters: &Parameters<&[f64]>, input: &MoeInput<'_, f64>) -> Routing<f64> {
    let (d, experts) = (config.width, config.experts.count);
    let mut routing = Routing::default();
    for x in input.x.chunks_exact(d) {
        let features = match config.gate.hidden {
            Some(hidden) => {
                let pre = linear(parameters[Param::GateFc1Weight], parameters[Param::GateFc1Bias], x, hidden.width);
                routing.hidden.extend(&pre);
                pre.into_iter().map(|v| hidden.activation.value(v)).collect()
            }
            None => x.to_vec(),
        };
        let logits = linear(parameters[Param::GateFc2Weight], parameters[Param::GateFc2Bias], &features, experts);
        let highest = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let powers: Vec<f64> = logits.iter().map(|z| (z - highest).exp()).collect();
        let total: f64 = powers.iter().sum();
        routing.probabilities.extend(powers.iter().map(|p| p / total));
        routing.chosen.extend(choose(config, &logits));
        routing.logits.extend(logits);
    }
    routing
}

/// The K experts whose logits are the highest.
pub fn choose(config: &MoeConfig, logits: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..config.experts.count as u32).collect();
    // Stable: of equal logits the lowest expert is first. NaN comes behind every number.
    order.sort_by(|&a, &b| higher_first(logits[a as usize], logits[b as usize]));
    order.truncate(config.top_k);
    order
}

/// W·x + b, W `[out, in]`.
fn linear(weight: &[f64], bias: &[f64], x: &[f64], outputs: usize) -> Vec<f64> {
    (0..outputs).map(|o| dot(&weight[o * x.len()..][..x.len()], x) + bias.get(o).unwrap_or(&0.0)).collect()
}

/// Descending order, in which NaN comes last.
pub fn higher_first(a: f64, b: f64) -> std::cmp::Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// From the gradient on the logits to the gate's parameters and x.
pub fn backward(
    config: &MoeConfig,
    parameters: &Parameters<&[f64]>,
    input: &MoeInput<'_, f64>,
    routing: &Routing<f64>,
    dlogits: &[f64],
    dx: &mut [f64],
    gradients: &mut Parameters<Vec<f64>>,
) {
    let (d, experts) = (config.width, config.experts.count);
    for row in 0..input.rows() {
        let x = &input.x[row * d..][..d];
        let dz = &dlogits[row * experts..][..experts];
        let dx = &mut dx[row * d..][..d];
        let Some(hidden) = config.gate.hidden else {
            linear_backward(parameters, Param::GateFc2Weight, Param::GateFc2Bias, x, dz, dx, gradients);
            continue;
        };
        let pre = &routing.hidden[row * hidden.width..][..hidden.width];
        let features: Vec<f64> = pre.iter().map(|&v| hidden.activation.value(v)).collect();
        let mut dpre = vec![0.0; hidden.width];
        linear_backward(parameters, Param::GateFc2Weight, Param::GateFc2Bias, &features, dz, &mut dpre, gradients);
        dpre.iter_mut().zip(pre).for_each(|(g, &v)| *g *= hidden.activation.slope(v));
        linear_backward(parameters, Param::GateFc1Weight, Param::GateFc1Bias, x, &dpre, dx, gradients);
    }
}

/// Adds to dx, dW and db of y = W·x + b.
fn linear_backward(
    parameters: &Parameters<&[f64]>,
    weight: Param,
    bias: Param,
    x: &[f64],
    dy: &[f64],
    dx: &mut [f64],
    gradients: &mut Parameters<Vec<f64>>,
) {
    for (o, &g) in dy.iter().enumerate() {
        add_scaled(dx, g, &parameters[weight][o * x.len()..][..x.len()]);
        add_scaled(&mut gradients[weight][o * x.len()..][..x.len()], g, x);
        if let Some(db) = gradients[bias].get_mut(o) {
            *db += g;
        }
    }
}
