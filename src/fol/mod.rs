//! The fairness-oriented loss: moments, contrast, transport; and back.
//!
//! Forward turns the large arrays into a few numbers (correlations, variances), the loss, and its gradient on those numbers.
//! Backward only spreads that gradient over the large arrays.

mod batch;
mod config;
mod dispersion;
mod normalise;
mod state;

pub use batch::{FolBatch, GateWeights, Groups};
pub use config::{Correlation, Dispersion, Distance, FolConfig, Normalise};
pub use state::{FolGradients, FolGroup, FolState, FolTerms};

#[cfg(feature = "cuda")]
pub(crate) use batch::check_gate;
pub(crate) use batch::check_ids;
pub(crate) use config::check_sinkhorn;
pub(crate) use state::GateMoments;

use crate::cpu::contrast::{Contrast, ContrastGradient};
use crate::cpu::{moments, transport};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::gpu;
use rayon::prelude::*;

/// The loss.
#[derive(Clone, Debug)]
pub struct Fol {
    config: FolConfig,
    device: Device,
}

impl Fol {
    /// A loss of this configuration, on the CPU.
    ///
    /// # Errors
    /// As [`FolConfig::check`].
    pub fn new(config: FolConfig) -> Result<Self> {
        Self::on(config, Device::cpu())
    }

    /// A loss of this configuration on that device, which on a GPU is computed from f32 alone and compares up to 4,096 samples. What it
    /// takes and gives is the host's all the same: [`gpu::fol`] is for who has it in a GPU's memory. A state that one device left is
    /// good on another.
    ///
    /// # Errors
    /// As [`FolConfig::check`], and on a GPU when the loss is one that only the CPU computes.
    pub fn on(config: FolConfig, device: Device) -> Result<Self> {
        config.check()?;
        if device.driver().is_some() {
            config.check_gpu()?;
        }
        Ok(Self { config, device })
    }

    /// Its configuration.
    pub fn config(&self) -> &FolConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The loss. What is not finite in the batch makes those terms NaN or infinite that read it.
    ///
    /// # Errors
    /// When shapes disagree, there are no samples, or a group id is out of range.
    pub fn forward<W: Float>(&self, batch: &FolBatch<'_, W>, groups: &Groups<'_, W>) -> Result<FolState> {
        groups.check(batch)?;
        if let Some(gpu) = self.device.driver() {
            return gpu::fol::host_forward(gpu, &self.config, batch, groups);
        }
        let similarity = contrast(batch)?;
        let all: Vec<usize> = (0..batch.samples).collect();
        let mut state = FolState {
            clip_loss: similarity.clip_loss(),
            correlation: similarity.correlation(self.config.correlation, &all)?,
            dcorrelation: vec![0.0; batch.samples],
            ..FolState::default()
        };
        state.terms.clip = weighted(self.config.lambda_clip, state.clip_loss);
        self.distances(batch, groups, &mut state)?;
        self.dispersions(batch, groups, &mut state)?;
        let terms = &mut state.terms;
        terms.total = terms.clip + terms.distance + terms.dispersion + terms.batch_variance;
        Ok(state)
    }

    /// Each group's distance from the batch, and its gradient on both correlations.
    fn distances<W: Float>(&self, batch: &FolBatch<'_, W>, groups: &Groups<'_, W>, state: &mut FolState) -> Result<()> {
        let members = groups.members();
        let one = |(g, members): (usize, &Vec<usize>)| match members[..] {
            [] => Ok(None),
            _ => {
                let own = contrast(groups.batch_of(g, batch))?.correlation(self.config.correlation, members)?;
                self.distance(&state.correlation, &own).map(Some)
            }
        };
        let found: Vec<Option<(FolGroup, Vec<f64>)>> = members.par_iter().enumerate().map(one).collect::<Result<_>>()?;
        for found in found {
            let group = found.map(|(group, dbatch)| {
                state.terms.distance += weighted(self.config.lambda_distance, group.distance);
                state.dcorrelation.iter_mut().zip(dbatch).for_each(|(sum, d)| *sum += d);
                group
            });
            state.push_group(group);
        }
        Ok(())
    }

    /// One group, from the correlations of the batch and its own; and the weighted distance's gradient on the batch's.
    fn distance(&self, batch: &[f64], own: &[f64]) -> Result<(FolGroup, Vec<f64>)> {
        let (batch, own) = (self.config.normalise.batch(batch), self.config.normalise.group(own));
        let found = match self.config.distance {
            Distance::Exact => transport::exact(&batch.values, &own.values),
            Distance::Sinkhorn { blur, scaling } => transport::sinkhorn(&batch.values, &own.values, blur, scaling),
        }?;
        let weigh = |gradient: Vec<f64>| gradient.into_iter().map(|d| weighted(self.config.lambda_distance, d)).collect();
        let (dcorrelation, dbatch) = (weigh(own.backward(&found.dy)), weigh(batch.backward(&found.dx)));
        Ok((FolGroup { correlation: own.values, distance: found.distance, variance: vec![], dcorrelation }, dbatch))
    }

    /// `upstream` times the gradients of the loss; `batch` and `groups` as the forward pass had them, `state` as it returned it.
    ///
    /// # Errors
    /// As [`Fol::forward`], and when the state is that of other shapes.
    pub fn backward<W: Float>(
        &self,
        batch: &FolBatch<'_, W>,
        groups: &Groups<'_, W>,
        state: &FolState,
        upstream: f64,
    ) -> Result<FolGradients<W>> {
        groups.check(batch)?;
        let members = groups.members();
        check_state(batch, &members, state)?;
        if let Some(gpu) = self.device.driver() {
            return gpu::fol::host_backward(gpu, &self.config, batch, groups, state, upstream);
        }
        let similarity = contrast(batch)?;
        let all: Vec<usize> = (0..batch.samples).collect();
        let mut gradient = similarity.no_gradient();
        let mut dweights = no_gradient(batch.gates);
        // A term that is switched off is left out: 0 · NaN would be NaN.
        if self.config.lambda_clip != 0.0 {
            similarity.clip_backward(self.config.lambda_clip, &mut gradient)?;
        }
        self.correlation_backward(&similarity, &all, &state.dcorrelation, &mut gradient)?;
        if self.config.lambda_dispersion != 0.0 || self.config.lambda_batch_variance != 0.0 {
            for ((gate, found), dweights) in batch.gates.iter().zip(&state.batch_moments).zip(&mut dweights) {
                gate_backward(gate, &gate.rows_counted(), found, upstream, dweights)?;
            }
        }
        let mut separate = vec![];
        match groups {
            _ if !self.config.group_gradient => {}
            Groups::Ids { ids, .. } => {
                for (members, group) in members.iter().zip(&state.groups) {
                    if let Some(group) = group {
                        self.correlation_backward(&similarity, members, &group.dcorrelation, &mut gradient)?;
                    }
                }
                if self.config.lambda_dispersion != 0.0 {
                    for ((gate, found), dweights) in batch.gates.iter().zip(&state.group_moments).zip(&mut dweights) {
                        gate_backward(gate, &gate.rows_grouped(ids), found, upstream, dweights)?;
                    }
                }
            }
            Groups::Separate(batches) => {
                for (g, group) in batches.iter().enumerate() {
                    separate.push(self.group_backward(group, &members[g], g, state, upstream)?);
                }
            }
        }
        Ok(FolGradients { groups: separate, ..whole(gradient, dweights, upstream) })
    }

    /// The gradients on group `g`, which is a batch of its own.
    fn group_backward<W: Float>(
        &self,
        batch: &FolBatch<'_, W>,
        members: &[usize],
        g: usize,
        state: &FolState,
        upstream: f64,
    ) -> Result<FolGradients<W>> {
        let similarity = contrast(batch)?;
        let mut gradient = similarity.no_gradient();
        if let Some(group) = &state.groups[g] {
            self.correlation_backward(&similarity, members, &group.dcorrelation, &mut gradient)?;
        }
        let mut dweights = no_gradient(batch.gates);
        if self.config.lambda_dispersion != 0.0 {
            for ((gate, all), dweights) in batch.gates.iter().zip(&state.group_moments).zip(&mut dweights) {
                gate_backward(gate, &gate.rows_counted(), &all.groups(g..g + 1, gate.experts), upstream, dweights)?;
            }
        }
        Ok(whole(gradient, dweights, upstream))
    }

    /// Adds the distances' gradient on a similarity, from that on the correlations of `members`.
    fn correlation_backward<W: Float>(
        &self,
        similarity: &Contrast<'_, W>,
        members: &[usize],
        dcorrelation: &[f64],
        gradient: &mut ContrastGradient,
    ) -> Result<()> {
        if self.config.lambda_distance == 0.0 {
            return Ok(());
        }
        similarity.correlation_backward(self.config.correlation, members, dcorrelation, gradient)
    }
}

/// A weight of 0 switches its term off, whatever that is.
fn weighted(weight: f64, value: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * value }
}

fn contrast<'a, W: Float>(batch: &FolBatch<'a, W>) -> Result<Contrast<'a, W>> {
    Contrast::new(batch.similarity, batch.samples, batch.scale)
}

/// No gradient yet, like each gate's weights.
fn no_gradient<W: Float>(gates: &[GateWeights<'_, W>]) -> Vec<Vec<W>> {
    gates.iter().map(|gate| vec![W::ZERO; gate.weights.len()]).collect()
}

/// Adds one gate's gradient to `dweights`; `rows` holds the group of each row in `found`.
fn gate_backward<W: Float>(
    gate: &GateWeights<'_, W>,
    rows: &[i64],
    found: &GateMoments,
    upstream: f64,
    dweights: &mut [W],
) -> Result<()> {
    let dvariance: Vec<f64> = found.dvariance.iter().map(|d| d * upstream).collect();
    let dmean = vec![0.0; dvariance.len()];
    moments::backward(gate.weights, gate.experts, rows, &found.moments, &dmean, &dvariance, dweights)
}

/// Rounds once, when all terms are together.
fn whole<W: Float>(gradient: ContrastGradient, dweights: Vec<Vec<W>>, upstream: f64) -> FolGradients<W> {
    FolGradients {
        dsimilarity: gradient.dsimilarity.iter().map(|d| W::from_f64(d * upstream)).collect(),
        dscale: gradient.dscale * upstream,
        dweights,
        groups: vec![],
    }
}

/// Checks that a state has the shapes that a forward pass over this batch and these groups leaves.
fn check_state<W>(batch: &FolBatch<'_, W>, members: &[Vec<usize>], state: &FolState) -> Result<()> {
    let of_gates = |found: &[GateMoments], groups: usize| {
        let fits = |(gate, found): (&GateWeights<'_, W>, &GateMoments)| {
            found.moments.count.len() == groups && found.dvariance.len() == groups * gate.experts
        };
        found.len() == batch.gates.len() && batch.gates.iter().zip(found).all(fits)
    };
    let of_group = |(members, group): (&Vec<usize>, &Option<FolGroup>)| {
        members.len() == group.as_ref().map_or(0, |group| group.dcorrelation.len())
    };
    let fits = state.dcorrelation.len() == batch.samples
        && state.groups.len() == members.len()
        && members.iter().zip(&state.groups).all(of_group)
        && of_gates(&state.batch_moments, 1)
        && of_gates(&state.group_moments, members.len());
    if fits {
        Ok(())
    } else {
        Err(Error::Refused("the state is not that of a forward pass over this batch and these groups".into()))
    }
}
