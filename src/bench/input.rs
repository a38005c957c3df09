//! What a layer that is measured is given, and what its parts cost, on whichever device.

use super::{Cost, Fill, Part, Pass, Shape, Stage};
use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::{Result, product};
use crate::moe::{Layout, MoeInput};
use crate::parameters::{Param, Parameters};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// The layer's parts, in the order in which one needs what another leaves.
pub const PARTS: [Part; 10] = {
    use {Pass::*, Stage::*};
    [
        (Gate, Forward),
        (Route, Forward),
        (Experts, Forward),
        (Combine, Forward),
        (Experts, Backward),
        (Route, Backward),
        (Gate, Backward),
        (Combine, Backward),
        (Layer, Forward),
        (Layer, Backward),
    ]
};

/// A layer's parameters and random input.
pub struct LayerInput<T> {
    pub config: MoeConfig,
    pub tokens: usize,
    pub samples: usize,
    pub rows_needed: Option<Vec<usize>>,
    pub parameters: Parameters<Vec<T>>,
    pub x: Vec<T>,
    pub dy: Vec<T>,
    /// How many experts there are rows for.
    busy: usize,
}

impl<T: Element> LayerInput<T> {
    /// Of the layer of `shape` on B = `samples` samples.
    pub fn new(shape: &Shape, samples: usize) -> Result<Self> {
        let (config, tokens) = (&shape.config, shape.tokens);
        let elements = product("x", &[tokens, samples, config.width])?;
        let mut rng = Pcg64::seed_from_u64(1);
        // Uniform with a variance of 1, as behind a layer norm.
        let mut random = || (0..elements).map(|_| T::from_f64((rng.random::<f64>() * 2.0 - 1.0) * 3f64.sqrt())).collect();
        let (mut x, dy): (Vec<T>, Vec<T>) = (random(), random());
        let mut parameters = Parameters::init(config, 2)?;
        match shape.fill {
            Fill::Fresh => {}
            Fill::Even | Fill::Pruned => choose(shape, &mut parameters, &mut x, |row| row / samples),
            Fill::Skewed => choose(shape, &mut parameters, &mut x, |_| 0),
        }
        let rows_needed = (shape.fill == Fill::Pruned).then(|| (0..samples).collect());
        let busy = if shape.fill == Fill::Skewed { 1 } else { config.experts.count };
        Ok(Self { config: config.clone(), tokens, samples, rows_needed, parameters, x, dy, busy })
    }

    /// As the layer takes it.
    pub fn moe_input(&self) -> MoeInput<'_, T> {
        MoeInput {
            rows_needed: self.rows_needed.as_deref(),
            ..MoeInput::new(&self.x, self.tokens, self.samples, Layout::TokensFirst)
        }
    }

    /// What a run of one part has to do with P = `pairs`.
    pub fn cost(&self, (stage, pass): Part, pairs: usize) -> Cost {
        let config = &self.config;
        let (size, wide) = (size_of::<T>() as f64, size_of::<T::Wide>() as f64);
        let (n, p) = ((self.tokens * self.samples) as f64, pairs as f64);
        let (d, f, e) = (config.width as f64, config.experts.width as f64, config.experts.count as f64);
        let h = config.gate.hidden.map_or(0.0, |h| h.width as f64);
        let gate = h * d + e * h;
        let busy = self.busy.min(pairs) as f64;
        let backward = pass == Pass::Backward;
        // Backward multiplies twice for each time that forward does, and writes as many gradients as it reads parameters.
        let times = if backward { 2.0 } else { 1.0 };
        // Of experts without rows only the gradients' zeros are written.
        let experts = 2.0 * f * d * if backward { busy + e } else { busy };
        match stage {
            Stage::Gate => {
                let tensors = times * (n * d + gate) * size;
                Cost { flops: times * 2.0 * n * gate, bytes: tensors + n * (h + 2.0 * e) * wide }
            }
            Stage::Route => Cost { flops: 0.0, bytes: 2.0 * n * e * wide + 2.0 * p * wide },
            Stage::Experts => {
                let rows = if backward { 2.0 * n * d + p * d } else { n * d + p * d };
                Cost { flops: times * 4.0 * p * d * f, bytes: (rows + experts + p * f) * size }
            }
            Stage::Combine => Cost { flops: 0.0, bytes: (p + 2.0 * n) * d * size },
            _ => {
                let parts = [Stage::Gate, Stage::Experts].map(|part| self.cost((part, pass), pairs).flops);
                let rows = if backward { 3.0 * n * d } else { 2.0 * n * d };
                Cost { flops: parts.iter().sum(), bytes: (rows + experts + times * gate + p * f) * size }
            }
        }
    }
}

/// Makes each row prefer experts t, t+1, ..., t+K-1 (mod E), with t of `first`, by a coordinate of x and a unit of the gate for each
/// expert.
fn choose<T: Element>(shape: &Shape, parameters: &mut Parameters<Vec<T>>, x: &mut [T], first: impl Fn(usize) -> usize) {
    let (width, e, k) = (shape.config.width, shape.config.experts.count, shape.config.top_k);
    let hidden = shape.config.gate.hidden.map_or(width, |h| h.width);
    let (fc1, one) = (&mut parameters[Param::GateFc1Weight], T::from_f64(1.0));
    for expert in 0..e {
        fc1[expert * width..][..width].fill(T::default());
        fc1[expert * width + expert] = one;
    }
    for expert in 0..e {
        parameters[Param::GateFc2Weight][expert * hidden + expert] = one;
    }
    for (row, x) in x.chunks_exact_mut(width).enumerate() {
        let first = first(row) % e;
        for (expert, x) in x[..e].iter_mut().enumerate() {
            let rank = (expert + e - first) % e;
            *x = T::from_f64(if rank < k { 8.0 - rank as f64 } else { 0.0 });
        }
    }
}
