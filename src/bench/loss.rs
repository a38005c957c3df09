//! The loss's work.

use super::loss_input::{Batch, LOSS_PARTS, LossInput};
use super::{Cost, Part, Pass, Shape, Stage, Work};
use crate::contrast::{Contrast, ContrastGradient};
use crate::dtype::Float;
use crate::error::Result;
use crate::fol::{Correlation, Fol, FolBatch, FolConfig, FolState, GateWeights, Groups};
use crate::moe::Layout;
use crate::moments::{self, Moments};
use crate::transport;

/// The loss as published, on one gate's weights [N, E] and logits [B, B], and for each of three groups a batch of the same sizes.
pub struct LossWork<W> {
    fol: Fol,
    input: LossInput<W>,
    state: FolState,
    moments: Moments,
    upstream: Vec<f64>,
    dweights: Vec<W>,
    gradient: ContrastGradient,
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
        let input = LossInput::<W>::new(shape, samples)?;
        let mut work = Self {
            fol: Fol::new(FolConfig::authors())?,
            state: FolState::default(),
            moments: Moments::default(),
            upstream: vec![1.0; input.experts],
            dweights: vec![W::ZERO; input.batches[0].weights.len()],
            gradient: ContrastGradient { dsimilarity: vec![0.0; samples * samples], dscale: 0.0 },
            input,
        };
        work.run((Stage::Moments, Pass::Forward))?;
        work.run((Stage::Fol, Pass::Forward))?;
        Ok(work)
    }

    /// The whole loss on views of the batches.
    fn run_whole(&mut self, pass: Pass) -> Result<()> {
        let gates: Vec<_> = self.input.batches.iter().map(|b| [b.gate(self.input.experts)]).collect();
        let views = self.input.batches.iter().zip(&gates);
        let views = views.map(|(b, gates)| FolBatch { similarity: &b.logits, scale: 1.0, samples: self.input.samples, gates });
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
        &LOSS_PARTS
    }

    fn run(&mut self, (stage, pass): Part) -> Result<()> {
        let batch = &self.input.batches[0];
        let rows = batch.weights.len() / self.input.experts;
        let contrast = Contrast::new(&batch.logits, self.input.samples, 1.0)?;
        let all: Vec<usize> = (0..self.input.samples).collect();
        let kind = Correlation::DiagonalOfSquare;
        match (stage, pass) {
            (Stage::Moments, Pass::Forward) => {
                self.moments = moments::forward(&batch.weights, self.input.experts, &vec![0; rows], 1)?;
            }
            (Stage::Moments, Pass::Backward) => {
                let (group, up) = (vec![0; rows], &self.upstream);
                moments::backward(&batch.weights, self.input.experts, &group, &self.moments, up, up, &mut self.dweights)?;
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

    fn cost(&self, part: Part) -> Cost {
        self.input.cost(part)
    }
}
