//! The specification as code: plain loops, everything in f64, nothing shared with the backends that are tested against it.
//!
//! It is as slow as it is simple. Shapes and letters as in [`crate::MoeConfig`].

mod combine;
pub mod contrast;
mod experts;
mod gate;
pub mod moments;
mod route;
pub mod transport;

use crate::config::MoeConfig;
use crate::error::{Result, expect_shape};
use crate::moe::{MoeInput, Routing, Upstream};
use crate::parameters::Parameters;

/// What [`moe_forward`] gives.
#[derive(Clone, Debug, Default)]
pub struct MoeForward {
    /// Like x.
    pub y: Vec<f64>,
    /// What the gate and routing decided.
    pub routing: Routing<f64>,
}

/// What [`moe_backward`] gives.
#[derive(Clone, Debug)]
pub struct MoeBackward {
    /// Like x.
    pub dx: Vec<f64>,
    /// The gradient of every parameter.
    pub gradients: Parameters<Vec<f64>>,
}

/// The layer's output.
///
/// # Errors
/// When a buffer's shape disagrees with the layer or the input.
pub fn moe_forward(config: &MoeConfig, parameters: &Parameters<&[f64]>, input: &MoeInput<'_, f64>) -> Result<MoeForward> {
    config.check()?;
    parameters.check(config)?;
    input.check(config)?;
    let mut routing = gate::forward(config, parameters, input);
    route::forward(config, input, &mut routing)?;
    let outputs = experts::forward(config, parameters, input, &routing);
    let y = combine::forward(config, parameters, input, &routing, &outputs);
    Ok(MoeForward { y, routing })
}

/// What has to be decided where a gate gave these logits and probabilities, `[N, E]` each.
///
/// # Errors
/// When a buffer's shape disagrees with the layer or the input.
pub fn routing_of(config: &MoeConfig, input: &MoeInput<'_, f64>, logits: &[f64], probabilities: &[f64]) -> Result<Routing<f64>> {
    config.check()?;
    input.check(config)?;
    let sizes = [input.rows(), config.experts.count];
    expect_shape("the logits", &sizes, logits.len())?;
    expect_shape("the probabilities", &sizes, probabilities.len())?;
    let chosen = logits.chunks_exact(config.experts.count).flat_map(|logits| gate::choose(config, logits)).collect();
    let (logits, probabilities) = (logits.to_vec(), probabilities.to_vec());
    let mut routing = Routing { logits, probabilities, chosen, ..Routing::default() };
    route::forward(config, input, &mut routing)?;
    Ok(routing)
}

/// The gradients of x and of every parameter, from a forward pass of its own.
///
/// # Errors
/// As [`moe_forward`].
pub fn moe_backward(
    config: &MoeConfig,
    parameters: &Parameters<&[f64]>,
    input: &MoeInput<'_, f64>,
    upstream: &Upstream<'_, f64>,
) -> Result<MoeBackward> {
    let MoeForward { routing, .. } = &moe_forward(config, parameters, input)?;
    upstream.check(config, input)?;
    let mut gradients = Parameters::zeros(config)?;
    let mut dx = vec![0.0; input.x.len()];
    let dpair = experts::backward(config, parameters, input, routing, upstream.dy, &mut dx, &mut gradients);
    combine::backward(config, parameters, input, upstream.dy, &mut dx, &mut gradients);
    let dlogits = route::backward(config, routing, upstream, &dpair);
    gate::backward(config, parameters, input, routing, &dlogits, &mut dx, &mut gradients);
    Ok(MoeBackward { dx, gradients })
}

/// Σ a·b.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// to += factor · from.
fn add_scaled(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
}
