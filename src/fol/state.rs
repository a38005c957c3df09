//! What a loss gives back: its terms, what it found in the batch and its groups, and gradients.

use crate::cpu::moments::Moments;

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
