//! What a loss is: every axis of [`FolConfig`], its checks, and the presets `paper` and `authors`.

use crate::error::{Error, Result};

/// How a gate's dispersion (the variance of each expert's weights over all rows) is compared between a group and the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Dispersion {
    /// Σ over experts of (v_batch - v_group)²: the paper.
    #[cfg_attr(feature = "model", serde(rename = "per_expert_sum"))]
    PerExpert,
    /// (mean over experts of v_batch - mean of v_group)²: the authors' code.
    #[cfg_attr(feature = "model", serde(rename = "mean_then_square"))]
    MeanFirst,
}

/// What stands for a sample in the distributions that transport compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Correlation {
    /// The diagonal of the similarity: cosines of matching image and text (paper, FairCLIP's paper).
    #[cfg_attr(feature = "model", serde(rename = "diag_cos"))]
    Diagonal,
    /// The diagonal of L = scale · similarity (on the CPU alone).
    #[cfg_attr(feature = "model", serde(rename = "diag_logit"))]
    DiagonalLogit,
    /// The diagonal of L·L with L = scale · similarity, that is Σ_j L_ij L_ji (both published codes).
    #[cfg_attr(feature = "model", serde(rename = "ll_diag"))]
    DiagonalOfSquare,
}

/// How correlations are scaled before transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Normalise {
    /// Not at all.
    None,
    /// The group's are divided by their sum; the batch's are not (both published codes). A sum of 0 gives NaN, as theirs does.
    GroupSum,
    /// Both sides are divided by their own sums (on the CPU alone).
    BothSum,
    /// Both sides lose their own mean and are divided by their own standard deviation (n - 1); a side whose correlations are all equal
    /// becomes 0 (on the CPU alone).
    #[cfg_attr(feature = "model", serde(rename = "zscore"))]
    ZScore,
}

/// The distance between the batch's and a group's correlations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// Half the squared 2-Wasserstein distance, by sorting.
    Exact,
    /// The debiased Sinkhorn divergence with p = 2, as geomloss 0.2.6 computes it.
    Sinkhorn {
        /// Its blur, in units of the correlation; from 1e-150, for its square is divided by.
        blur: f64,
        /// The ratio of one blur to the one before, above 0 and at most 0.999; geomloss's default is 0.5.
        scaling: f64,
    },
}

/// What a [`crate::Fol`] is. The loss is
///
/// ```text
///   lambda_clip · CLIP cross entropy + lambda_distance · Σ_groups distance
/// + lambda_dispersion · Σ_groups Σ_gates dispersion - lambda_batch_variance · Σ_gates mean over experts of v_batch
/// ```
///
/// A weight of 0 switches its term off.
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

    /// Checks that such a loss can exist.
    ///
    /// # Errors
    /// Names the first setting that is out of its range, and the range.
    pub fn check(&self) -> Result<()> {
        let weights = [
            ("lambda_clip", self.lambda_clip),
            ("lambda_distance", self.lambda_distance),
            ("lambda_dispersion", self.lambda_dispersion),
            ("lambda_batch_variance", self.lambda_batch_variance),
        ];
        if let Some((what, weight)) = weights.into_iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(Error::config(what, "a finite number", weight));
        }
        match self.distance {
            Distance::Exact => Ok(()),
            Distance::Sinkhorn { blur, scaling } => check_sinkhorn(blur, scaling),
        }
    }
}

impl FolConfig {
    /// Checks that a GPU has kernels for such a loss.
    pub(crate) fn check_gpu(&self) -> Result<()> {
        let only_here = |what| Err(Error::Refused(format!("{what} is computed on the CPU alone: choose the device cpu")));
        match (self.correlation, self.normalise) {
            (Correlation::DiagonalLogit, _) => only_here("the correlation by the diagonal of the logits"),
            (_, Normalise::BothSum) => only_here("normalising both sides by their sums"),
            (_, Normalise::ZScore) => only_here("normalising both sides to z-scores"),
            _ => Ok(()),
        }
    }
}

/// Checks the settings of Sinkhorn: the bounds keep the last temperature above 0, and their number below a few millions.
pub(crate) fn check_sinkhorn(blur: f64, scaling: f64) -> Result<()> {
    if !(1e-150..=1e150).contains(&blur) {
        return Err(Error::config("blur", "from 1e-150 to 1e150", blur));
    }
    if !(scaling > 0.0 && scaling <= 0.999) {
        return Err(Error::config("scaling", "above 0 and at most 0.999", scaling));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_refuses_what_only_the_cpu_computes() {
        FolConfig::paper().check_gpu().unwrap();
        FolConfig::authors().check_gpu().unwrap();
        for config in [
            FolConfig { correlation: Correlation::DiagonalLogit, ..FolConfig::paper() },
            FolConfig { normalise: Normalise::BothSum, ..FolConfig::paper() },
            FolConfig { normalise: Normalise::ZScore, ..FolConfig::paper() },
        ] {
            assert!(config.check_gpu().unwrap_err().to_string().contains("on the CPU alone"));
        }
    }
}
