//! What a layer keeps of forward for backward.

use super::Shape;
use crate::dtype::DType;
use crate::error::{Result, product};
use crate::gpu::moe::{StatePart, state_layout};

/// Bytes that stay on a device between forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// x `[N, D]`, which is the caller's.
    pub x: usize,
    /// The experts' inner layers before their activation, or what stands for them: `[P, F]`, of gated experts two of them.
    pub experts: usize,
    /// All else: of the gate, and of routing.
    pub routing: usize,
}

impl Saved {
    /// Of the layer of `shape` on B = `samples` samples, before anything is routed: P is the most that there can be.
    ///
    /// # Errors
    /// When that is too large.
    pub fn of(shape: &Shape, samples: usize, dtype: DType) -> Result<Self> {
        let (config, tokens) = (&shape.config, shape.tokens);
        let x = product("x", &[tokens, samples, config.width, dtype.bytes()])?;
        let layout = state_layout(config, dtype, tokens, samples, shape.needed(samples), true)?;
        let experts = layout[StatePart::Inner] + layout[StatePart::Glu];
        let all: usize = StatePart::ALL.into_iter().map(|part| layout[part]).sum();
        Ok(Self { x, experts, routing: all - experts })
    }

    /// All of them.
    pub fn bytes(&self) -> usize {
        self.x + self.experts + self.routing
    }
}
