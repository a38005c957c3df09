//! The fairness-oriented loss: moments, contrast, transport; and back.

use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::moe::Layout;

/// How a gate's dispersion (the variance of each expert's weights over all rows) is compared between a group and the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispersion {
    /// Σ over experts of (v_batch - v_group)²: the paper.
    PerExpert,
    /// (mean over experts of v_batch - mean of v_group)²: the authors' code.
    MeanFirst,
}

/// What stands for a sample in the distributions that transport compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correlation {
    /// The diagonal of the similarity: cosines of matching image and text (paper, FairCLIP's paper).
    Diagonal,
    /// The diagonal of L·L with L = scale · similarity, that is Σ_j L_ij L_ji (both published codes).
    DiagonalOfSquare,
}

/// How correlations are scaled before transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalise {
    /// Not at all.
    None,
    /// The group's are divided by their sum; the batch's are not (both published codes).
    GroupSum,
}

/// The distance between the batch's and a group's correlations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// Half the squared 2-Wasserstein distance, by sorting.
    Exact,
    /// The debiased Sinkhorn divergence with p = 2, as geomloss 0.2.6 computes it.
    Sinkhorn {
        /// Its blur, in units of the correlation.
        blur: f64,
        /// The ratio of one blur to the one before, above 0 and below 1; geomloss's default is 0.5.
        scaling: f64,
    },
}

/// What a [`Fol`] is. The loss is
/// `lambda_clip · CLIP cross entropy + lambda_distance · Σ_g distance_g + lambda_dispersion · Σ_g Σ_gates dispersion_g
/// - lambda_batch_variance · Σ_gates mean over experts of v_batch`.
#[derive(Clone, Debug, PartialEq)]
pub struct FolConfig {
    /// Weight of the cross entropy between matching images and texts; 1 in both presets.
    pub lambda_clip: f64,
    /// Weight of the groups' distances.
    pub lambda_distance: f64,
    /// Weight of the groups' dispersions.
    pub lambda_dispersion: f64,
    /// Weight of the batch's own dispersion, which the authors' code *maximises*; 0 in the paper.
    pub lambda_batch_variance: f64,
    /// How dispersions are compared.
    pub dispersion: Dispersion,
    /// What transport compares.
    pub correlation: Correlation,
    /// How correlations are scaled.
    pub normalise: Normalise,
    /// How they are compared.
    pub distance: Distance,
    /// Whether gradients flow into the groups too; false in both presets.
    pub group_gradient: bool,
}

impl FolConfig {
    /// The paper's loss: per-expert dispersion of all gates, exact transport of the diagonal cosines.
    pub fn paper() -> Self {
        Self {
            lambda_clip: 1.0,
            lambda_distance: 1e-6,
            lambda_dispersion: 1e-4,
            lambda_batch_variance: 0.0,
            dispersion: Dispersion::PerExpert,
            correlation: Correlation::Diagonal,
            normalise: Normalise::None,
            distance: Distance::Exact,
            group_gradient: false,
        }
    }

    /// The authors' code: mean first, the diagonal of L·L normalised on the group's side alone, Sinkhorn, and the batch term.
    pub fn authors() -> Self {
        Self {
            lambda_distance: 1e-4,
            lambda_batch_variance: 1e-4,
            dispersion: Dispersion::MeanFirst,
            correlation: Correlation::DiagonalOfSquare,
            normalise: Normalise::GroupSum,
            distance: Distance::Sinkhorn { blur: 1e-4, scaling: 0.5 },
            ..Self::paper()
        }
    }
}

/// One gate's final weights over a batch.
#[derive(Clone, Copy, Debug)]
pub struct GateWeights<'a, W> {
    /// [rows, E].
    pub weights: &'a [W],
    /// E.
    pub experts: usize,
    /// The order of the rows: tells which sample a row belongs to.
    pub layout: Layout,
    /// [rows]: false leaves a row (padding) out of the dispersion; none: all count.
    pub row_mask: Option<&'a [bool]>,
}

/// One batch: what the cross entropy, transport and dispersion read.
#[derive(Clone, Copy, Debug)]
pub struct FolBatch<'a, W> {
    /// [B, B] similarity of image i (row) and text j (column): cosines, or logits with a `scale` of 1.
    pub similarity: &'a [W],
    /// What multiplies the similarity to give logits.
    pub scale: f64,
    /// B.
    pub samples: usize,
    /// The gates whose dispersion counts.
    pub gates: &'a [GateWeights<'a, W>],
}

/// Where the groups are.
#[derive(Clone, Copy, Debug)]
pub enum Groups<'a, W> {
    /// Each a batch of its own, with as many gates of the same widths (as published).
    Separate(&'a [FolBatch<'a, W>]),
    /// In the batch itself: `ids` [B], each from 0 to `count` - 1, or -1 for a sample that belongs to none.
    Ids {
        /// [B].
        ids: &'a [i64],
        /// G.
        count: usize,
    },
}

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

/// What a forward pass found; [`Fol::backward`] reads it.
#[derive(Clone, Debug, Default)]
pub struct FolState {
    /// The terms of the loss.
    pub terms: FolTerms,
    /// The cross entropy before its weight.
    pub clip_loss: f64,
    /// [B] the batch's correlation.
    pub correlation: Vec<f64>,
    /// [gates][E] variance of each expert's weights over the batch.
    pub variance: Vec<Vec<f64>>,
    /// Each group in turn; none for a group without samples.
    pub groups: Vec<Option<FolGroup>>,
    /// What a reader should know, such as a group of a single row, in plain sentences.
    pub warnings: Vec<String>,
}

/// What a forward pass found in one group.
#[derive(Clone, Debug, Default)]
pub struct FolGroup {
    /// [samples of the group] its correlation, after normalising.
    pub correlation: Vec<f64>,
    /// Its distance from the batch, before its weight.
    pub distance: f64,
    /// [gates][E] variance of each expert's weights over the group.
    pub variance: Vec<Vec<f64>>,
}

/// Gradients of the loss on one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolGradients<W> {
    /// [B, B].
    pub dsimilarity: Vec<W>,
    /// On the scale.
    pub dscale: f64,
    /// Like each gate's weights.
    pub dweights: Vec<Vec<W>>,
    /// On separate groups, in their order; empty unless the loss was told to give them. With group ids they are in the above.
    pub groups: Vec<FolGradients<W>>,
}

/// The loss.
#[derive(Clone, Debug)]
pub struct Fol {
    config: FolConfig,
}

impl Fol {
    /// A loss of this configuration.
    ///
    /// # Errors
    /// When a weight is not finite, or blur or scaling out of range.
    pub fn new(config: FolConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// Its configuration.
    pub fn config(&self) -> &FolConfig {
        &self.config
    }

    /// The loss.
    ///
    /// # Errors
    /// When shapes disagree, or a group id is out of range.
    pub fn forward<W: Float>(&self, batch: &FolBatch<'_, W>, groups: &Groups<'_, W>) -> Result<FolState> {
        let _ = (batch, groups);
        Err(Error::Refused("not there yet".into()))
    }

    /// `upstream` times the gradients of the loss.
    ///
    /// # Errors
    /// As [`Fol::forward`].
    pub fn backward<W: Float>(
        &self,
        batch: &FolBatch<'_, W>,
        groups: &Groups<'_, W>,
        state: &FolState,
        upstream: f64,
    ) -> Result<FolGradients<W>> {
        let _ = (batch, groups, state, upstream);
        Err(Error::Refused("not there yet".into()))
    }
}
