//! The settings of the loss.

use crate::error::{Error, Result};
use crate::fol::{Correlation, Dispersion, Distance, Fol, FolConfig, Normalise};
use crate::model::{GateChoice, GateName, GateRows, GateValue};
use serde::{Deserialize, Serialize};

/// How the distributions of a batch's and a group's correlations are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceKind {
    /// Half the squared 2-Wasserstein distance, by sorting.
    Exact,
    /// The debiased Sinkhorn divergence as geomloss computes it, with `blur` and `scaling`.
    Sinkhorn,
}

/// The loss: cross entropy + Σ over attributes of weight · (distances + dispersions + the gates' cross entropy) - the batch's own
/// dispersion. A weight of 0 switches a term off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSettings {
    /// Weight of the cross entropy between matching images and texts.
    pub lambda_clip: f64,
    /// Weight of the groups' distances.
    pub lambda_distance: f64,
    /// Weight of the groups' dispersions. The published 1e-4 is negligible: see the shares in `start.json`.
    pub lambda_dispersion: f64,
    /// Weight of the batch's own dispersion, which the published code maximises (with the same weight as the groups').
    pub lambda_batch_variance: f64,
    /// Weight of the cross entropy between the feature mixtures' gates and the groups (0.1 in what the published code left out).
    pub gate_ce_weight: f64,
    /// What stands for a sample: `diag_cos`, `diag_logit` or `ll_diag` (both published codes).
    pub correlation: Correlation,
    /// How correlations are scaled: `none`, `group_sum` (both published codes), `both_sum` or `zscore`.
    pub normalise: Normalise,
    /// How distributions are compared: `exact` or `sinkhorn` (published).
    pub distance: DistanceKind,
    /// Sinkhorn's blur.
    pub blur: f64,
    /// Sinkhorn's scaling.
    pub scaling: f64,
    /// How dispersions are compared: `per_expert_sum` (paper) or `mean_then_square` (published code).
    pub dispersion: Dispersion,
    /// Whose dispersion counts, of `image_token`, `image_feature`, `text_token` and `text_feature`: all four (paper) or the text's
    /// two (published code). Without one of them it is an ablation; an empty list leaves none.
    pub gates: Vec<GateName>,
    /// Of the gates' final `weights` (both publications) or their `probabilities`.
    pub dispersion_of: GateValue,
    /// Over which rows: `all` (published code), `not-padding` or `selected`.
    pub dispersion_rows: GateRows,
    /// Whether gradients flow into the groups too.
    pub group_gradient: bool,
}

impl LossSettings {
    /// The paper's loss: four gates, per-expert dispersion, exact transport of diagonal cosines.
    pub fn paper() -> Self {
        let FolConfig { lambda_clip, lambda_distance, lambda_dispersion, lambda_batch_variance, .. } = FolConfig::paper();
        Self {
            lambda_clip,
            lambda_distance,
            lambda_dispersion,
            lambda_batch_variance,
            gate_ce_weight: 0.0,
            correlation: Correlation::Diagonal,
            normalise: Normalise::None,
            distance: DistanceKind::Exact,
            blur: 1e-4,
            scaling: 0.5,
            dispersion: Dispersion::PerExpert,
            gates: GateName::ALL.to_vec(),
            dispersion_of: GateValue::Weights,
            dispersion_rows: GateRows::NotPadding,
            group_gradient: false,
        }
    }

    /// What the loss reads of the gates.
    pub fn choice(&self) -> GateChoice {
        GateChoice { gates: self.gates.clone(), of: self.dispersion_of, rows: self.dispersion_rows }
    }

    /// The loss without the gates' cross entropy, for one attribute.
    pub fn config(&self) -> FolConfig {
        FolConfig {
            lambda_clip: self.lambda_clip,
            lambda_distance: self.lambda_distance,
            lambda_dispersion: self.lambda_dispersion,
            lambda_batch_variance: self.lambda_batch_variance,
            dispersion: self.dispersion,
            correlation: self.correlation,
            normalise: self.normalise,
            distance: match self.distance {
                DistanceKind::Exact => Distance::Exact,
                DistanceKind::Sinkhorn => Distance::Sinkhorn { blur: self.blur, scaling: self.scaling },
            },
            group_gradient: self.group_gradient,
        }
    }

    /// Whether any term that is switched on reads the groups.
    pub fn reads_groups(&self) -> bool {
        [self.lambda_distance, self.lambda_dispersion, self.gate_ce_weight].iter().any(|weight| *weight != 0.0)
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.gate_ce_weight.is_finite() {
            return Err(Error::config("gate_ce_weight", "a finite number", self.gate_ce_weight));
        }
        Fol::new(self.config()).map(drop)
    }
}
