//! Each kept pair: expert(x) = W2·h + b2 with h = act(W1·x + b1), or h = act(V·x + c)·(W1·x + b1) where gated.

use super::{add_scaled, dot};
use crate::config::MoeConfig;
use crate::moe::{MoeInput, Routing};
use crate::parameters::{Param, Parameters};

/// The parameters of expert number `index`, or of the shared one.
pub struct Network {
    index: usize,
    glu: (Param, Param),
    fc1: (Param, Param),
    fc2: (Param, Param),
}

/// Routed expert e.
pub fn routed(e: usize) -> Network {
    use Param::*;
    let (glu, fc1) = ((ExpertsGluWeight, ExpertsGluBias), (ExpertsFc1Weight, ExpertsFc1Bias));
    Network { index: e, glu, fc1, fc2: (ExpertsFc2Weight, ExpertsFc2Bias) }
}

/// The shared expert.
pub fn shared() -> Network {
    use Param::*;
    Network {
        index: 0,
        glu: (SharedGluWeight, SharedGluBias),
        fc1: (SharedFc1Weight, SharedFc1Bias),
        fc2: (SharedFc2Weight, SharedFc2Bias),
    }
}

impl Network {
    /// W·x + b of the `outputs` rows that belong to this expert.
    fn linear(&self, parameters: &Parameters<&[f64]>, (weight, bias): (Param, Param), x: &[f64], outputs: usize) -> Vec<f64> {
        let first = self.index * outputs;
        let weight = |o| &parameters[weight][(first + o) * x.len()..][..x.len()];
        (0..outputs).map(|o| dot(weight(o), x) + parameters[bias].get(first + o).unwrap_or(&0.0)).collect()
    }

    /// Adds to dx, dW and db of y = W·x + b.
    fn linear_backward(
        &self,
        parameters: &Parameters<&[f64]>,
        (weight, bias): (Param, Param),
        x: &[f64],
        dy: &[f64],
        dx: &mut [f64],
        gradients: &mut Parameters<Vec<f64>>,
    ) {
        for (o, &g) in dy.iter().enumerate() {
            let out = self.index * dy.len() + o;
            add_scaled(dx, g, &parameters[weight][out * x.len()..][..x.len()]);
            add_scaled(&mut gradients[weight][out * x.len()..][..x.len()], g, x);
            if let Some(db) = gradients[bias].get_mut(out) {
                *db += g;
            }
        }
    }

    /// What the activation is taken of, and what it multiplies (where gated).
    fn inner(&self, config: &MoeConfig, parameters: &Parameters<&[f64]>, x: &[f64]) -> (Vec<f64>, Option<Vec<f64>>) {
        let up = self.linear(parameters, self.fc1, x, config.experts.width);
        match config.experts.gated {
            true => (self.linear(parameters, self.glu, x, config.experts.width), Some(up)),
            false => (up, None),
        }
    }

    /// expert(x) `[D]`.
    pub fn forward(&self, config: &MoeConfig, parameters: &Parameters<&[f64]>, x: &[f64]) -> Vec<f64> {
        let (pre, factor) = self.inner(config, parameters, x);
        let h = hidden(config, &pre, factor.as_deref());
        self.linear(parameters, self.fc2, &h, config.width)
    }

    /// From `dy`, the gradient on expert(x) itself.
    pub fn backward(
        &self,
        config: &MoeConfig,
        parameters: &Parameters<&[f64]>,
        x: &[f64],
        dy: &[f64],
        dx: &mut [f64],
        gradients: &mut Parameters<Vec<f64>>,
    ) {
        let act = config.experts.activation;
        let (pre, factor) = self.inner(config, parameters, x);
        let h = hidden(config, &pre, factor.as_deref());
        let mut dh = vec![0.0; h.len()];
        self.linear_backward(parameters, self.fc2, &h, dy, &mut dh, gradients);
        let Some(factor) = factor else {
            let dpre: Vec<f64> = dh.iter().zip(&pre).map(|(g, &v)| g * act.slope(v)).collect();
            return self.linear_backward(parameters, self.fc1, x, &dpre, dx, gradients);
        };
        let dfactor: Vec<f64> = dh.iter().zip(&pre).map(|(g, &v)| g * act.value(v)).collect();
        let dpre: Vec<f64> = dh.iter().zip(&pre).zip(&factor).map(|((g, &v), f)| g * f * act.slope(v)).collect();
        self.linear_backward(parameters, self.fc1, x, &dfactor, dx, gradients);
        self.linear_backward(parameters, self.glu, x, &dpre, dx, gradients);
    }
}

fn hidden(config: &MoeConfig, pre: &[f64], factor: Option<&[f64]>) -> Vec<f64> {
    let h = pre.iter().map(|&v| config.experts.activation.value(v));
    match factor {
        Some(factor) => h.zip(factor).map(|(h, f)| h * f).collect(),
        None => h.collect(),
    }
}

/// `[P, D]` the output of each pair's expert, before its weight.
pub fn forward(
    config: &MoeConfig,
    parameters: &Parameters<&[f64]>,
    input: &MoeInput<'_, f64>,
    routing: &Routing<f64>,
) -> Vec<f64> {
    let pairs =
        (0..config.experts.count).flat_map(|e| (routing.expert_offsets[e]..routing.expert_offsets[e + 1]).map(move |p| (e, p)));
    pairs
        .flat_map(|(e, p)| routed(e).forward(config, parameters, input.row(routing.pair_row[p] as usize, config.width)))
        .collect()
}

/// Adds to dx and to the experts' gradients; gives `[P]` the gradient on each pair's weight.
pub fn backward(
    config: &MoeConfig,
    parameters: &Parameters<&[f64]>,
    input: &MoeInput<'_, f64>,
    routing: &Routing<f64>,
    dy: &[f64],
    dx: &mut [f64],
    gradients: &mut Parameters<Vec<f64>>,
) -> Vec<f64> {
    let d = config.width;
    let mut dpair = vec![];
    for e in 0..config.experts.count {
        for p in routing.expert_offsets[e]..routing.expert_offsets[e + 1] {
            let row = routing.pair_row[p] as usize;
            let (x, dy) = (input.row(row, d), &dy[row * d..][..d]);
            dpair.push(dot(dy, &routed(e).forward(config, parameters, x)));
            let weighted: Vec<f64> = dy.iter().map(|g| g * routing.pair_weight[p]).collect();
            routed(e).backward(config, parameters, x, &weighted, &mut dx[row * d..][..d], gradients);
        }
    }
    dpair
}
