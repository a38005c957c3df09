//! What a loss gives back: its terms, what it found in the batch and its groups, and gradients.

use crate::cpu::moments::Moments;
use std::ops::Range;

/// The terms of a loss, each already multiplied by its weight; `total` is their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FolTerms {
    /// The sum of the others.
    pub total: f64,
    /// Cross entropy.
    pub clip: f64,
    /// Distances of the groups.
    pub distance: f64,
    /// Dispersions of the groups.
    pub dispersion: f64,
    /// The batch's own dispersion, as a negative number.
    pub batch_variance: f64,
}

/// What a forward pass found; [`crate::Fol::backward`] reads it.
#[derive(Clone, Debug, Default)]
pub struct FolState {
    /// The terms of the loss.
    pub terms: FolTerms,
    /// The cross entropy before its weight.
    pub clip_loss: f64,
    /// `[B]` the batch's correlation.
    pub correlation: Vec<f64>,
    /// `[gates][E]` variance of each expert's weights over the batch.
    pub variance: Vec<Vec<f64>>,
    /// Each group in turn; none for a group without samples.
    pub groups: Vec<Option<FolGroup>>,
    /// What a reader should know, such as a group of a single row, in plain sentences.
    pub warnings: Vec<String>,
    /// `[B]` the loss's gradient on the batch's correlation.
    pub(crate) dcorrelation: Vec<f64>,
    /// `[gates]` of the batch, which is one group.
    pub(crate) batch_moments: Vec<GateMoments>,
    /// `[gates]` of all groups.
    pub(crate) group_moments: Vec<GateMoments>,
}

/// What a forward pass found in one group.
#[derive(Clone, Debug, Default)]
pub struct FolGroup {
    /// `[samples of the group]` its correlation, after normalising.
    pub correlation: Vec<f64>,
    /// Its distance from the batch, before its weight.
    pub distance: f64,
    /// `[gates][E]` variance of each expert's weights over the group.
    pub variance: Vec<Vec<f64>>,
    /// `[samples of the group]` the loss's gradient on its correlation, before normalising.
    pub(crate) dcorrelation: Vec<f64>,
}

/// One gate's moments, and the loss's gradient on their variances `[G, E]`.
#[derive(Clone, Debug)]
pub(crate) struct GateMoments {
    pub moments: Moments,
    pub dvariance: Vec<f64>,
}

/// Gradients of the loss on one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolGradients<W> {
    /// `[B, B]`.
    pub dsimilarity: Vec<W>,
    /// On the scale.
    pub dscale: f64,
    /// Like each gate's weights.
    pub dweights: Vec<Vec<W>>,
    /// On separate groups, in their order; empty unless the loss was told to give them. With group ids they are in the above.
    pub groups: Vec<FolGradients<W>>,
}

impl FolState {
    /// Takes the next group, or warns that there is none.
    pub(crate) fn push_group(&mut self, group: Option<FolGroup>) {
        if group.is_none() {
            self.warnings.push(format!("group {} has no samples and is left out", self.groups.len()));
        }
        self.groups.push(group);
    }

    /// Takes the next gate's moments, those of the batch behind those of the groups, and warns of what is too small.
    pub(crate) fn push_gate(&mut self, all: GateMoments, experts: usize) {
        let i = self.batch_moments.len();
        let groups = all.moments.count.len() - 1;
        let (own, whole) = (all.groups(0..groups, experts), all.groups(groups..groups + 1, experts));
        if whole.moments.count[0] < 2 {
            self.warnings.push(format!("in gate {i} the batch has fewer than two rows, so its variance is 0"));
        }
        for (g, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            group.variance.push(own.moments.variance[g * experts..(g + 1) * experts].to_vec());
            match own.moments.count[g] {
                0 => self.warnings.push(format!("in gate {i} group {g} has no rows and is left out")),
                1 => self.warnings.push(format!("in gate {i} group {g} has a single row, so its variance is 0")),
                _ => {}
            }
        }
        self.variance.push(whole.moments.variance.clone());
        self.batch_moments.push(whole);
        self.group_moments.push(own);
    }
}

impl GateMoments {
    /// Some groups of a gate of so many experts, alone.
    pub(crate) fn groups(&self, groups: Range<usize>, experts: usize) -> Self {
        let of = |all: &[f64]| all[groups.start * experts..groups.end * experts].to_vec();
        let (mean, variance) = (of(&self.moments.mean), of(&self.moments.variance));
        let count = self.moments.count[groups.clone()].to_vec();
        Self { moments: Moments { count, mean, variance }, dvariance: of(&self.dvariance) }
    }
}
