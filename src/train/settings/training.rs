//! The settings of the optimiser and its course.

use super::Arch;
use crate::error::{Error, Result};
use crate::train::AdamConfig;
use serde::{Deserialize, Serialize};

/// A part of a model whose parameters can move or stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// The blocks of the image tower and its norms, but for its token mixture.
    VisionTower,
    /// The image tower's token mixture.
    VisionTokenMoe,
    /// The mixture behind the image's projection.
    VisionFeatureMoe,
    /// The blocks of the text tower, but for its token mixture.
    TextTower,
    /// The text tower's token mixture.
    TextTokenMoe,
    /// The mixture behind the text's projection.
    TextFeatureMoe,
    /// Patches, the class token and their positions.
    VisionEmbeddings,
    /// The image's projection.
    VisionProjection,
    /// Tokens and their positions.
    TextEmbeddings,
    /// The text tower's last norm.
    TextNorm,
    /// The text's projection.
    TextProjection,
    /// What multiplies the cosines.
    LogitScale,
}

impl Module {
    /// All of them.
    pub const ALL: [Module; 12] = [
        Module::VisionTower,
        Module::VisionTokenMoe,
        Module::VisionFeatureMoe,
        Module::TextTower,
        Module::TextTokenMoe,
        Module::TextFeatureMoe,
        Module::VisionEmbeddings,
        Module::VisionProjection,
        Module::TextEmbeddings,
        Module::TextNorm,
        Module::TextProjection,
        Module::LogitScale,
    ];

    /// What the published Fair-MoE trains: the whole image side but its feature mixture, which stands in a line that is switched
    /// off, and of the text the blocks and both mixtures. FairCLIP's code trains what it has of them.
    pub const PUBLISHED: [Module; 7] = [
        Module::VisionTower,
        Module::VisionTokenMoe,
        Module::TextTower,
        Module::TextTokenMoe,
        Module::TextFeatureMoe,
        Module::VisionEmbeddings,
        Module::VisionProjection,
    ];

    /// Whether it is one of Fair-MoE's mixtures, which a plain CLIP lacks.
    pub fn is_mixture(self) -> bool {
        matches!(self, Self::VisionTokenMoe | Self::VisionFeatureMoe | Self::TextTokenMoe | Self::TextFeatureMoe)
    }

    /// The one that a parameter belongs to.
    pub fn of(parameter: &str) -> Self {
        let is_mixture = parameter.ends_with(".mlp");
        match parameter {
            "logit_scale" => Self::LogitScale,
            "text_projection.weight" => Self::TextProjection,
            "visual_projection.weight" => Self::VisionProjection,
            "vision_feature_moe" => Self::VisionFeatureMoe,
            "text_feature_moe" => Self::TextFeatureMoe,
            _ if parameter.starts_with("vision_model.embeddings.") => Self::VisionEmbeddings,
            _ if parameter.starts_with("text_model.embeddings.") => Self::TextEmbeddings,
            _ if parameter.starts_with("text_model.final_layer_norm.") => Self::TextNorm,
            _ if parameter.starts_with("text_model.") => {
                if is_mixture {
                    Self::TextTokenMoe
                } else {
                    Self::TextTower
                }
            }
            _ => {
                if is_mixture {
                    Self::VisionTokenMoe
                } else {
                    Self::VisionTower
                }
            }
        }
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays (published).
    Constant,
    /// It falls to 0 along a cosine.
    Cosine,
}

/// What a model computes with; parameters, gates, losses and the optimiser are f32 throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32.
    F32,
    /// bf16, from f32 parameters.
    Bf16,
}

/// The samples that choose the epoch whose model is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectSplit {
    /// The validation split.
    Val,
    /// The test split (published codes): what is measured on it afterwards is too good.
    Test,
}

/// The figure that chooses it; the later of equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectBy {
    /// AUC.
    Auc,
    /// ES-AUC, the mean over the attributes.
    EsAuc,
}

/// The optimiser and its course.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSettings {
    /// Passes over the training split.
    pub epochs: usize,
    /// B, samples in a step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// The share of all steps in which the rate rises to it in a straight line.
    pub warmup: f64,
    /// How the rate goes on.
    pub schedule: Schedule,
    /// The optimiser.
    pub adam: AdamConfig,
    /// The parts whose parameters move.
    pub trainable: Vec<Module>,
    /// `f32` or `bf16`.
    pub precision: Precision,
    /// Which split chooses the model that is kept: `val`, or `test` (published codes).
    pub select_split: SelectSplit,
    /// By `auc` or `es-auc`.
    pub select_by: SelectBy,
    /// A checkpoint after so many steps, beside that of each epoch; 0: none.
    pub checkpoint_steps: usize,
    /// Decides parameters, order and texts.
    pub seed: u64,
}

impl TrainingSettings {
    /// As is published for pretrained models, or, for `tiny`, what trains it from scratch within minutes.
    pub fn of(arch: Arch) -> Self {
        let pretrained = Self {
            epochs: 10,
            batch: 32,
            rate: 1e-5,
            warmup: 0.0,
            schedule: Schedule::Constant,
            adam: AdamConfig { betas: [0.1, 0.1], epsilon: 1e-6, decay: 6e-5, decoupled: false },
            trainable: Module::PUBLISHED.into_iter().chain([Module::VisionFeatureMoe]).collect(),
            precision: Precision::F32,
            select_split: SelectSplit::Val,
            select_by: SelectBy::Auc,
            checkpoint_steps: 50,
            seed: 1,
        };
        match arch {
            Arch::VitB16 | Arch::VitL14 => pretrained,
            Arch::Tiny => Self {
                rate: 1e-3,
                warmup: 0.1,
                schedule: Schedule::Cosine,
                adam: AdamConfig { betas: [0.9, 0.98], epsilon: 1e-6, decay: 0.1, decoupled: true },
                trainable: Module::ALL.to_vec(),
                ..pretrained
            },
        }
    }

    /// The learning rate of a step, counted from 0, of `total`.
    pub fn rate_at(&self, step: u64, total: u64) -> f64 {
        let warm = (total as f64 * self.warmup) as u64;
        if step < warm {
            return self.rate * (step + 1) as f64 / warm as f64;
        }
        match self.schedule {
            Schedule::Constant => self.rate,
            Schedule::Cosine => {
                let done = (step - warm) as f64 / (total - warm).max(1) as f64;
                self.rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (what, n) in [("the number of epochs", self.epochs), ("the batch", self.batch)] {
            if !(1..=1 << 20).contains(&n) {
                return Err(Error::config(what, "from 1 to 1048576", n));
            }
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(Error::config("the learning rate", "a number above 0", self.rate));
        }
        if !(0.0..=1.0).contains(&self.warmup) {
            return Err(Error::config("the warm-up", "a share of the steps, from 0 to 1", self.warmup));
        }
        if self.trainable.is_empty() {
            return Err(Error::config("trainable", "at least one part of the model", "empty"));
        }
        self.adam.check()
    }
}
