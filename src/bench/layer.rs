//! The layer's work.

use super::{Cost, Fill, Part, Pass, Shape, Stage, Work};
use crate::cpu::{Scratch, combine, experts, gate, route};
use crate::dtype::Element;
use crate::error::{Result, product};
use crate::moe::{GradientMode, Layout, Moe, MoeInput, MoeState, Upstream};
use crate::parameters::{Param, Parameters};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// A layer of some shape with random input, and everything that its stages leave to each other.
pub struct LayerWork<T: Element> {
    moe: Moe,
    tokens: usize,
    samples: usize,
    rows_needed: Option<Vec<usize>>,
    parameters: Parameters<Vec<T>>,
    x: Vec<T>,
    dy: Vec<T>,
    y: Vec<T>,
    dx: Vec<T>,
    gradients: Parameters<Vec<T>>,
    state: MoeState<T>,
    outputs: Scratch,
    back: experts::Backward<T::Wide>,
    dlogits: Vec<T::Wide>,
    dgate: Scratch,
}

impl<T: Element> LayerWork<T> {
    /// The layer of `shape` on B = `samples` samples.
    ///
    /// # Errors
    /// When that is too large.
    pub fn new(shape: &Shape, samples: usize) -> Result<Self> {
        let (config, tokens) = (&shape.config, shape.tokens);
        let elements = product("x", &[tokens, samples, config.width])?;
        let mut rng = Pcg64::seed_from_u64(1);
        // Uniform with a variance of 1, as behind a layer norm.
        let mut random = || (0..elements).map(|_| T::from_f64((rng.random::<f64>() * 2.0 - 1.0) * 3f64.sqrt())).collect();
        let (mut x, dy): (Vec<T>, Vec<T>) = (random(), random());
        let mut parameters = Parameters::init(config, 2)?;
        if shape.fill != Fill::Fresh {
            route_evenly(shape, samples, &mut parameters, &mut x);
        }
        let mut work = Self {
            moe: Moe::new(config.clone())?,
            tokens,
            samples,
            rows_needed: (shape.fill == Fill::Pruned).then(|| (0..samples).collect()),
            parameters,
            y: vec![T::default(); elements],
            dx: vec![T::default(); elements],
            x,
            dy,
            gradients: Parameters::zeros(config)?,
            state: MoeState::default(),
            outputs: Scratch::new::<T>(0),
            back: experts::Backward { dx: Scratch::new::<T>(0), dpair: vec![] },
            dlogits: vec![],
            dgate: Scratch::new::<T>(0),
        };
        work.parts().iter().try_for_each(|&part| work.run(part))?;
        Ok(work)
    }

    /// P.
    pub fn pairs(&self) -> usize {
        self.state.routing.pairs()
    }
}

/// Makes token t prefer experts t, t+1, ..., t+K-1 (mod E), by a coordinate of x and a unit of the gate for each expert.
fn route_evenly<T: Element>(shape: &Shape, samples: usize, parameters: &mut Parameters<Vec<T>>, x: &mut [T]) {
    let (width, e, k) = (shape.config.width, shape.config.experts.count, shape.config.top_k);
    let hidden = shape.config.gate.hidden.map_or(width, |h| h.width);
    let (first, second) = (&mut parameters[Param::GateFc1Weight], T::from_f64(1.0));
    for expert in 0..e {
        first[expert * width..][..width].fill(T::default());
        first[expert * width + expert] = second;
    }
    for expert in 0..e {
        parameters[Param::GateFc2Weight][expert * hidden + expert] = second;
    }
    for (row, x) in x.chunks_exact_mut(width).enumerate() {
        let token = row / samples;
        for (expert, x) in x[..e].iter_mut().enumerate() {
            let rank = (expert + e - token % e) % e;
            *x = T::from_f64(if rank < k { 8.0 - rank as f64 } else { 0.0 });
        }
    }
}

impl<T: Element> Work for LayerWork<T> {
    fn parts(&self) -> &'static [Part] {
        use {Pass::*, Stage::*};
        &[
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
    }

    fn run(&mut self, (stage, pass): Part) -> Result<()> {
        let config = self.moe.config();
        let parameters = self.parameters.as_slices();
        let input = MoeInput {
            rows_needed: self.rows_needed.as_deref(),
            ..MoeInput::new(&self.x, self.tokens, self.samples, Layout::TokensFirst)
        };
        let upstream = Upstream::new(&self.dy);
        let (state, mode) = (&mut self.state, GradientMode::Overwrite);
        let mut gradients = self.gradients.as_mut_slices();
        match (stage, pass) {
            (Stage::Gate, Pass::Forward) => gate::forward(config, &parameters, &input, &mut state.routing),
            (Stage::Route, Pass::Forward) => route::forward(config, &input, &mut state.routing)?,
            (Stage::Experts, Pass::Forward) => {
                let saved = Some((&mut state.inner, &mut state.glu));
                self.outputs = experts::forward(config, &parameters, &input, &state.routing, saved);
            }
            (Stage::Combine, Pass::Forward) => combine::forward(config, &input, &state.routing, self.outputs.get(), &mut self.y),
            (Stage::Experts, Pass::Backward) => {
                self.back = experts::backward(config, &parameters, &input, state, &self.dy, &mut gradients, mode);
            }
            (Stage::Route, Pass::Backward) => {
                self.dlogits = route::backward(config, &state.routing, &upstream, &self.back.dpair);
            }
            (Stage::Gate, Pass::Backward) => {
                self.dgate = gate::backward(config, &parameters, &input, &state.routing, &self.dlogits, &mut gradients, mode);
            }
            (Stage::Combine, Pass::Backward) => {
                combine::backward(config, &input, &state.routing, self.back.dx.get(), self.dgate.get(), &self.dy, &mut self.dx);
            }
            (_, Pass::Forward) => self.moe.forward(&parameters, &input, &mut self.y, state)?,
            (_, Pass::Backward) => {
                self.moe.backward(&parameters, &input, state, &upstream, &mut self.dx, &mut gradients, mode)?;
            }
        }
        Ok(())
    }

    fn cost(&self, (stage, pass): Part) -> Cost {
        let config = self.moe.config();
        let (size, wide) = (size_of::<T>() as f64, size_of::<T::Wide>() as f64);
        let (n, p) = ((self.tokens * self.samples) as f64, self.pairs() as f64);
        let (d, f, e) = (config.width as f64, config.experts.width as f64, config.experts.count as f64);
        let h = config.gate.hidden.map_or(0.0, |h| h.width as f64);
        let (gate, experts) = (h * d + e * h, 2.0 * e * f * d);
        let backward = pass == Pass::Backward;
        // Backward multiplies twice for each time that forward does, and writes as many gradients as it reads parameters.
        let times = if backward { 2.0 } else { 1.0 };
        match stage {
            Stage::Gate => {
                let tensors = times * (n * d + gate) * size;
                Cost { flops: times * 2.0 * n * gate, bytes: tensors + n * (h + 2.0 * e) * wide }
            }
            Stage::Route => Cost { flops: 0.0, bytes: 2.0 * n * e * wide + 2.0 * p * wide },
            Stage::Experts => {
                let rows = if backward { 2.0 * n * d + p * d } else { n * d + p * d };
                Cost { flops: times * 4.0 * p * d * f, bytes: (rows + times * experts + p * f) * size }
            }
            Stage::Combine => Cost { flops: 0.0, bytes: (p + 2.0 * n) * d * size },
            _ => {
                let parts = [Stage::Gate, Stage::Experts].map(|part| self.cost((part, pass)).flops);
                let rows = if backward { 3.0 * n * d } else { 2.0 * n * d };
                Cost { flops: parts.iter().sum(), bytes: (rows + times * (experts + gate) + p * f) * size }
            }
        }
    }
}
