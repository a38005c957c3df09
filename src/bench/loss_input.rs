//! What a loss that is measured is given, and what its parts cost, on whichever device.

use super::{Cost, Part, Pass, Shape, Stage};
use crate::dtype::Float;
use crate::error::{Result, product};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// G: as many as the largest attribute has.
pub const GROUPS: usize = 3;

/// The loss's parts, in the order in which one needs what another leaves. The gradient of a distance comes with it.
pub const LOSS_PARTS: [Part; 7] = {
    use {Pass::*, Stage::*};
    [
        (Moments, Forward),
        (Moments, Backward),
        (Contrast, Forward),
        (Contrast, Backward),
        (Transport, Forward),
        (Fol, Forward),
        (Fol, Backward),
    ]
};

/// Random input of a loss.
pub struct LossInput<W> {
    pub samples: usize,
    pub experts: usize,
    /// The batch, then the groups, each of the same sizes.
    pub batches: Vec<Batch<W>>,
}

/// One gate's weights `[N, E]`, and logits `[B, B]`.
pub struct Batch<W> {
    pub logits: Vec<W>,
    pub weights: Vec<W>,
}

impl<W: Float> LossInput<W> {
    /// Behind the layer of `shape` on B = `samples` samples.
    pub fn new(shape: &Shape, samples: usize) -> Result<Self> {
        let experts = shape.config.experts.count;
        let weights = product("the weights", &[shape.tokens, samples, experts])?;
        let mut rng = Pcg64::seed_from_u64(3);
        let mut random = |n: usize, scale: f64| (0..n).map(|_| W::from_f64(rng.random::<f64>() * scale)).collect::<Vec<W>>();
        let mut batch = || Batch { logits: random(samples * samples, 30.0), weights: random(weights, 0.3) };
        Ok(Self { samples, experts, batches: (0..1 + GROUPS).map(|_| batch()).collect() })
    }

    /// What a run of one part has to do: a stage on the batch alone, or with one group; the loss on all.
    pub fn cost(&self, (stage, pass): Part) -> Cost {
        let wide = size_of::<W>() as f64;
        let (b, weights) = (self.samples as f64, self.batches[0].weights.len() as f64);
        // Backward reads again what forward read, and writes a gradient of the same size.
        let times = if pass == Pass::Backward { 2.0 } else { 1.0 };
        match stage {
            Stage::Moments => Cost { flops: times * 3.0 * weights, bytes: times * weights * wide },
            Stage::Contrast => Cost { flops: times * 6.0 * b * b, bytes: times * b * b * wide },
            Stage::Transport => Cost { flops: 0.0, bytes: 4.0 * b * 8.0 },
            _ => self.cost_with_groups((Stage::Moments, pass)) + self.cost_with_groups((Stage::Contrast, pass)),
        }
    }

    /// The same of a stage on the batch and all groups at once, as a device runs it.
    pub fn cost_with_groups(&self, part: Part) -> Cost {
        let one = self.cost(part);
        let times = match part {
            (Stage::Moments | Stage::Contrast, Pass::Forward) => (1 + GROUPS) as f64,
            (Stage::Transport, _) => GROUPS as f64,
            // The groups are constants.
            _ => 1.0,
        };
        Cost { flops: times * one.flops, bytes: times * one.bytes }
    }
}
