//! What a layer that is measured is given, and what its parts cost, on whichever device.

use super::{Cost, Fill, Part, Pass, Shape, Stage};
use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::{Result, product};
use crate::gpu::experts::folds;
use crate::moe::{Layout, MoeInput};
use crate::parameters::{Param, Parameters, flat_len};
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

/// The same where the probabilities are given.
pub const GIVEN_PARTS: [Part; 8] = {
    use {Pass::*, Stage::*};
    [
        (Route, Forward),
        (Experts, Forward),
        (Combine, Forward),
        (Experts, Backward),
        (Route, Backward),
        (Combine, Backward),
        (Routed, Forward),
        (Routed, Backward),
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
    /// Whether the gate is no part of what is measured.
    pub given: bool,
    /// Whether a device's kernels run it, which keep another inner layer and sum in another stage than the CPU.
    pub on_device: bool,
    /// How many experts there are rows for.
    busy: usize,
}

impl<T: Element> LayerInput<T> {
    /// Of the layer of `shape` on B = `samples` samples.
    pub fn new(shape: &Shape, samples: usize) -> Result<Self> {
        let (config, tokens) = (&shape.config, shape.tokens);
        let elements = product("x", &[tokens, samples, config.width])?;
        // With a variance of 1, as behind a layer norm.
        let (mut x, dy) = (noise(elements, 3f64.sqrt(), 1), noise(elements, 3f64.sqrt(), 3));
        let mut parameters = match shape.fill {
            Fill::Fresh => Parameters::init(config, 2)?,
            _ => {
                flat_len(config)?;
                Parameters::from_fn(|p| noise(p.len(config), 1.0 / (p.fan_in(config) as f64).sqrt(), 2))
            }
        };
        match shape.fill {
            Fill::Fresh => {}
            // Each sample's first row another expert first, so that the few rows of `Pruned` want them all.
            Fill::Even | Fill::Pruned => choose(shape, &mut parameters, &mut x, |row| row / samples + row % samples),
            Fill::Skewed => choose(shape, &mut parameters, &mut x, |_| 0),
        }
        let rows_needed = (shape.fill == Fill::Pruned).then(|| (0..samples).collect());
        let busy = if shape.fill == Fill::Skewed { 1 } else { config.experts.count };
        let (config, given, on_device) = (config.clone(), shape.given, false);
        Ok(Self { config, tokens, samples, rows_needed, parameters, x, dy, given, on_device, busy })
    }

    /// What is measured of it.
    pub fn parts(&self) -> &'static [Part] {
        if self.given { &GIVEN_PARTS } else { &PARTS }
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
        // Rows that experts read, at most.
        let r = self.rows_needed.as_ref().map_or(n, |rows| rows.len() as f64).min(p);
        let (d, f, e) = (config.width as f64, config.experts.width as f64, config.experts.count as f64);
        let h = config.gate.hidden.map_or(0.0, |h| h.width as f64);
        let gate = if h > 0.0 { h * d + e * h } else { e * d };
        let inner = if config.experts.gated { 2.0 } else { 1.0 };
        let minus = if config.subtract_input { r } else { 0.0 };
        let busy = self.busy.min(pairs) as f64;
        let backward = pass == Pass::Backward;
        // Backward multiplies twice for each time that forward does, and writes as many gradients as it reads parameters.
        let times = if backward { 2.0 } else { 1.0 };
        // Of experts without rows only the gradients' zeros are written.
        let experts = (1.0 + inner) * f * d * if backward { busy + e } else { busy };
        let saved = p * f * inner;
        // The hidden layer with its weights is what is saved, where they are folded.
        let hidden = if self.on_device && folds(config, T::DTYPE) { 0.0 } else { p * f };
        // dy, for the experts' biases.
        let of_bias = if self.on_device && backward && config.experts.bias { r * d } else { 0.0 };
        let products = |count: f64, elements: f64| Cost { flops: 2.0 * count * p * d * f, bytes: elements * size };
        match stage {
            Stage::Gate => {
                let tensors = times * (n * d + gate) * size;
                Cost { flops: times * 2.0 * n * gate, bytes: tensors + n * (h + 2.0 * e) * wide }
            }
            Stage::Route => Cost { flops: 0.0, bytes: 2.0 * n * e * wide + 2.0 * p * wide + of_bias * size },
            Stage::Experts => {
                let rows = (times * r + p) * d;
                Cost { flops: times * 2.0 * (1.0 + inner) * p * d * f, bytes: (rows + experts + saved) * size }
            }
            // In elements: rows of x or dy, pairs' rows, matrices and inner layers.
            Stage::Up => products(inner, r * d + inner * busy * f * d + saved + hidden),
            Stage::Down => products(1.0, p * f + busy * f * d + p * d),
            Stage::Dinner => products(1.0, r * d + busy * f * d + saved + inner * p * f + hidden),
            Stage::Dx => products(inner, inner * p * f + inner * busy * f * d + p * d),
            Stage::Dfc1 => products(inner, inner * p * f + r * d + inner * e * f * d),
            Stage::Dfc2 => products(1.0, p * f + r * d + e * f * d),
            Stage::Merged => [Stage::Dfc2, Stage::Dfc1, Stage::Dx]
                .map(|stage| self.cost((stage, pass), pairs))
                .into_iter()
                .fold(Cost::default(), |sum, cost| sum + cost),
            Stage::Combine => {
                let each = if self.on_device { size } else { wide };
                let of_gate = if backward && !self.given { n * d * each } else { 0.0 };
                Cost { flops: 2.0 * p * d, bytes: (p + n + minus) * d * size + of_gate }
            }
            _ => {
                let gate = if self.given { 0.0 } else { gate };
                let products = self.cost((Stage::Experts, pass), pairs).flops;
                // x and dy are read, y or dx is written.
                let read = if self.given { r } else { n };
                let rows = (times * read + n) * d;
                let bytes = (rows + experts + times * gate + saved) * size;
                Cost { flops: products + times * 2.0 * n * gate, bytes }
            }
        }
    }
}

/// Numbers uniform in ±bound. The same some million over and over: what an element is moves a processor's clock, but that it comes
/// again far away does not.
fn noise<T: Element>(len: usize, bound: f64, seed: u64) -> Vec<T> {
    // A prime, so that no two rows of a matrix are alike.
    const PERIOD: usize = 1_048_573;
    let mut rng = Pcg64::seed_from_u64(seed);
    let once: Vec<T> = (0..PERIOD.min(len)).map(|_| T::from_f64((rng.random::<f64>() * 2.0 - 1.0) * bound)).collect();
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        all.extend_from_slice(&once[..once.len().min(len - all.len())]);
    }
    all
}

/// Makes each row prefer experts t, t+1, ..., t+K-1 (mod E), with t of `first`, by a coordinate of x for each expert, and a unit of the
/// gate where it has a hidden layer.
fn choose<T: Element>(shape: &Shape, parameters: &mut Parameters<Vec<T>>, x: &mut [T], first: impl Fn(usize) -> usize) {
    let (width, e, k) = (shape.config.width, shape.config.experts.count, shape.config.top_k);
    let hidden = shape.config.gate.hidden.map_or(width, |h| h.width);
    let one = T::from_f64(1.0);
    if shape.config.gate.hidden.is_some() {
        unit_rows(&mut parameters[Param::GateFc1Weight], width, e, one);
    }
    let fc2 = &mut parameters[Param::GateFc2Weight];
    if shape.config.gate.hidden.is_some() {
        (0..e).for_each(|expert| fc2[expert * hidden + expert] = one);
    } else {
        unit_rows(fc2, width, e, one);
    }
    for (row, x) in x.chunks_exact_mut(width).enumerate() {
        let first = first(row) % e;
        for (expert, x) in x[..e].iter_mut().enumerate() {
            let rank = (expert + e - first) % e;
            *x = T::from_f64(if rank < k { 8.0 * (k - rank) as f64 / k as f64 } else { 0.0 });
        }
    }
}

/// Makes of the first `count` rows of a matrix those of the unit matrix.
fn unit_rows<T: Element>(matrix: &mut [T], width: usize, count: usize, one: T) {
    for (n, row) in matrix.chunks_exact_mut(width).take(count).enumerate() {
        row.fill(T::default());
        row[n] = one;
    }
}
