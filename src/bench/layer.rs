//! The layer's work on the CPU.

use super::input::LayerInput;
use super::{Cost, Part, Pass, Shape, Stage, Work};
use crate::cpu::{Scratch, combine, experts, gate, route};
use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::moe::{GradientMode, Moe, MoeState, Upstream};
use crate::parameters::Parameters;

/// A layer of some shape with random input, and everything that its stages leave to each other.
pub struct LayerWork<T: Element> {
    moe: Moe,
    input: LayerInput<T>,
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
        let input = LayerInput::new(shape, samples)?;
        let mut work = Self {
            moe: Moe::new(shape.config.clone())?,
            y: vec![T::default(); input.x.len()],
            dx: vec![T::default(); input.x.len()],
            input,
            gradients: Parameters::zeros(&shape.config)?,
            state: MoeState::default(),
            outputs: Scratch::new::<T>(0),
            back: experts::Backward { dx: Scratch::new::<T>(0), dpair: vec![] },
            dlogits: vec![],
            dgate: Scratch::new::<T>(0),
        };
        if shape.given {
            work.run((Stage::Gate, Pass::Forward))?;
            work.dgate = Scratch::new::<T::Wide>(work.dx.len());
            work.dgate.get_mut::<T::Wide>().fill(T::Wide::ZERO);
        }
        work.parts().iter().try_for_each(|&part| work.run(part))?;
        Ok(work)
    }

    /// P.
    pub fn pairs(&self) -> usize {
        self.state.routing.pairs()
    }
}

impl<T: Element> Work for LayerWork<T> {
    fn parts(&self) -> &'static [Part] {
        self.input.parts()
    }

    fn run(&mut self, (stage, pass): Part) -> Result<()> {
        let config = self.moe.config();
        let (parameters, input) = (self.input.parameters.as_slices(), self.input.moe_input());
        let dy = &self.input.dy;
        let upstream = Upstream::new(dy);
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
                self.back = experts::backward(config, &parameters, &input, state, dy, &mut gradients, mode);
            }
            (Stage::Route, Pass::Backward) => {
                self.dlogits = route::backward(config, &state.routing, &upstream, &self.back.dpair);
            }
            (Stage::Gate, Pass::Backward) => {
                self.dgate = gate::backward(config, &parameters, &input, &state.routing, &self.dlogits, &mut gradients, mode);
            }
            (Stage::Combine, Pass::Backward) => {
                combine::backward(config, &input, &state.routing, self.back.dx.get(), self.dgate.get(), dy, &mut self.dx);
            }
            (Stage::Routed, Pass::Forward) => {
                [Stage::Route, Stage::Experts, Stage::Combine].into_iter().try_for_each(|stage| self.run((stage, pass)))?;
            }
            (Stage::Routed, Pass::Backward) => {
                [Stage::Experts, Stage::Route, Stage::Combine].into_iter().try_for_each(|stage| self.run((stage, pass)))?;
            }
            (_, Pass::Forward) => self.moe.forward(&parameters, &input, &mut self.y, state)?,
            (_, Pass::Backward) => {
                self.moe.backward(&parameters, &input, state, &upstream, &mut self.dx, &mut gradients, mode)?;
            }
        }
        Ok(())
    }

    fn cost(&self, part: Part) -> Cost {
        self.input.cost(part, self.pairs())
    }
}
