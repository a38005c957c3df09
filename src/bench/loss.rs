//! The loss's work.

use super::{Cost, Part, Pass, Shape, Stage, Work};
use crate::contrast::{Contrast, ContrastGradient};
use crate::dtype::Float;
use crate::error::{Result, product};
use crate::fol::{Correlation, Fol, FolBatch, FolConfig, FolState, GateWeights, Groups};
use crate::moe::Layout;
use crate::moments::{self, Moments};
use crate::transport;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// G: as many as the largest attribute has.
const GROUPS: usize = 3;

/// The loss as published, on one gate's weights [N, E] and logits [B, B], and for each of three groups a batch of the same sizes.
pub struct LossWork<W> {
    fol: Fol,
    samples: usize,
    experts: usize,
    /// The batch, then the groups.
    batches: Vec<Batch<W>>,
    state: FolState,
    moments: Moments,
    upstream: Vec<f64>,
    dweights: Vec<W>,
    gradient: ContrastGradient,
}

struct Batch<W> {
    logits: Vec<W>,
    weights: Vec<W>,
}

impl<W: Float> Batch<W> {
    fn gate(&self, experts: usize) -> GateWeights<'_, W> {
        GateWeights { weights: &self.weights, experts, layout: Layout::TokensFirst, row_mask: None }
    }
}

impl<W: Float> LossWork<W> {
    /// The loss behind the layer of `shape` on B = `samples` samples.
    ///
    /// # Errors
    /// When that is too large.
    pub fn new(shape: &Shape, samples: usize) -> Result<Self> {
        let experts = shape.config.experts.count;
        let weights = product("the weights", &[shape.tokens, samples, experts])?;
        let mut rng = Pcg64::seed_from_u64(3);
        let mut random = |n: usize, scale: f64| (0..n).map(|_| W::from_f64(rng.random::<f64>() * scale)).collect::<Vec<W>>();
        let mut batch = || Batch { logits: random(samples * samples, 30.0), weights: random(weights, 0.3) };
        let batches: Vec<Batch<W>> = (0..1 + GROUPS).map(|_| batch()).collect();
        let mut work = Self {
            fol: Fol::new(FolConfig::authors())?,
            samples,
            experts,
            state: FolState::default(),
            moments: Moments::default(),
            upstream: vec![1.0; experts],
            dweights: vec![W::ZERO; weights],
            gradient: ContrastGradient { dsimilarity: vec![0.0; samples * samples], dscale: 0.0 },
            batches,
        };
        work.run((Stage::Moments, Pass::Forward))?;
        work.run((Stage::Fol, Pass::Forward))?;
        Ok(work)
    }

    /// The whole loss on views of the batches.
    fn run_whole(&mut self, pass: Pass) -> Result<()> {
        let gates: Vec<_> = self.batches.iter().map(|b| [b.gate(self.experts)]).collect();
        let views = self.batches.iter().zip(&gates);
        let views = views.map(|(b, gates)| FolBatch { similarity: &b.logits, scale: 1.0, samples: self.samples, gates });
        let views: Vec<_> = views.collect();
        let groups = Groups::Separate(&views[1..]);
        match pass {
            Pass::Forward => self.state = self.fol.forward(&views[0], &groups)?,
            Pass::Backward => drop(self.fol.backward(&views[0], &groups, &self.state, 1.0)?),
        }
        Ok(())
    }
}

impl<W: Float> Work for LossWork<W> {
    fn parts(&self) -> &'static [Part] {
        use {Pass::*, Stage::*};
        // The gradient of a distance comes with it.
        &[
            (Moments, Forward),
            (Moments, Backward),
            (Contrast, Forward),
            (Contrast, Backward),
            (Transport, Forward),
            (Fol, Forward),
            (Fol, Backward),
        ]
    }

    fn run(&mut self, (stage, pass): Part) -> Result<()> {
        let batch = &self.batches[0];
        let rows = batch.weights.len() / self.experts;
        let contrast = Contrast::new(&batch.logits, self.samples, 1.0)?;
        let all: Vec<usize> = (0..self.samples).collect();
        let kind = Correlation::DiagonalOfSquare;
        match (stage, pass) {
            (Stage::Moments, Pass::Forward) => {
                self.moments = moments::forward(&batch.weights, self.experts, &vec![0; rows], 1)?;
            }
            (Stage::Moments, Pass::Backward) => {
                let (group, up) = (vec![0; rows], &self.upstream);
                moments::backward(&batch.weights, self.experts, &group, &self.moments, up, up, &mut self.dweights)?;
            }
            (Stage::Contrast, Pass::Forward) => {
                std::hint::black_box((contrast.clip_loss(), contrast.correlation(kind, &all)?));
            }
            (Stage::Contrast, Pass::Backward) => {
                contrast.clip_backward(1.0, &mut self.gradient)?;
                contrast.correlation_backward(kind, &all, &self.state.correlation, &mut self.gradient)?;
            }
            (Stage::Transport, _) => {
                let group = self.state.groups[0].as_ref().map_or(&[][..], |g| &g.correlation);
                std::hint::black_box(transport::sinkhorn(&self.state.correlation, group, 1e-4, 0.5)?);
            }
            _ => self.run_whole(pass)?,
        }
        Ok(())
    }

    fn cost(&self, (stage, pass): Part) -> Cost {
        let wide = size_of::<W>() as f64;
        let (b, weights) = (self.samples as f64, self.dweights.len() as f64);
        // Backward reads again what forward read, and writes a gradient of the same size.
        let times = if pass == Pass::Backward { 2.0 } else { 1.0 };
        match stage {
            Stage::Moments => Cost { flops: times * 3.0 * weights, bytes: times * weights * wide },
            Stage::Contrast => Cost { flops: times * 6.0 * b * b, bytes: times * b * b * wide },
            Stage::Transport => Cost { flops: 0.0, bytes: 4.0 * b * 8.0 },
            _ => {
                let batches = (1 + GROUPS) as f64;
                let own = self.cost((Stage::Moments, pass)) + self.cost((Stage::Contrast, pass));
                // The groups are constants.
                if pass == Pass::Backward { own } else { Cost { flops: batches * own.flops, bytes: batches * own.bytes } }
            }
        }
    }
}
