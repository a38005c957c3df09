//! What is published, as settings.

use super::{Arch, CapacityTokens, DistanceKind, GroupSource, LongNotes, Module, SelectSplit, Settings};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::fol::{Correlation, Dispersion, Normalise};
use crate::model::{ExpertsFrom, GateName, GateRows, Subtract};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Which publication the settings start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// CLIP, fine-tuned with its own loss. The validation split selects it; published CLIP figures, as those of
    /// [`Preset::Fairclip`] and [`Preset::Authors`], are of the epoch that is best on the test split itself, so that in one table
    /// with these it is at a disadvantage, unless `training.select_split` is the same.
    Clip,
    /// FairCLIP as its code and scripts have it: the diagonal of L·L, divided by its sum on the groups' side alone.
    Fairclip,
    /// FairCLIP as its paper has it: the distance of matching images' and texts' cosines.
    FairclipPaper,
    /// Fair-MoE as its paper has it.
    Paper,
    /// Fair-MoE as its released code has it, but for f16 without f32 masters, in which its gates' loss had no gradient at all.
    Authors,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 5] = [Preset::Clip, Preset::Fairclip, Preset::FairclipPaper, Preset::Paper, Preset::Authors];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Clip => "clip",
            Preset::Fairclip => "fairclip",
            Preset::FairclipPaper => "fairclip-paper",
            Preset::Paper => "paper",
            Preset::Authors => "authors",
        }
    }

    /// Turns the settings of [`Preset::Paper`] into its own.
    pub(super) fn apply(self, settings: &mut Settings) {
        let Settings { arch, model, loss, training, data, .. } = settings;
        if self != Preset::Paper && self != Preset::Authors {
            model.mixtures = false;
            loss.lambda_dispersion = 0.0;
        }
        match self {
            Preset::Clip => loss.lambda_distance = 0.0,
            // FairCLIP's scripts and, before them, its paper.
            Preset::Fairclip => (loss.lambda_distance, loss.blur) = (1e-6, 1e-6),
            Preset::FairclipPaper => (loss.lambda_distance, loss.blur) = (1e-7, 1e-6),
            // It names both towers and the mixtures. A fresh model must learn the rest too.
            Preset::Paper => {
                let stays = [Module::VisionEmbeddings, Module::VisionProjection];
                training.trainable.retain(|module| *arch == Arch::Tiny || !stays.contains(module));
            }
            Preset::Authors => {
                model.experts_from = ExpertsFrom::Layer(11);
                model.expert_activation = Activation::Relu;
                model.capacity_tokens = CapacityTokens::Fixed(197);
                model.subtract = Subtract::LayerInput;
                loss.lambda_distance = 1e-4;
                loss.lambda_batch_variance = loss.lambda_dispersion;
                loss.dispersion = Dispersion::MeanFirst;
                loss.gates = GateName::TEXT.to_vec();
                loss.dispersion_rows = GateRows::All;
                data.group_batch = 64;
                training.trainable.retain(|module| *module != Module::VisionFeatureMoe);
            }
        }
        if matches!(self, Preset::Fairclip | Preset::Authors) {
            loss.correlation = Correlation::DiagonalOfSquare;
            loss.normalise = Normalise::GroupSum;
            training.select_split = SelectSplit::Test;
            data.long_notes = LongNotes::Error;
        }
        if matches!(self, Preset::Fairclip | Preset::FairclipPaper | Preset::Authors) {
            loss.distance = DistanceKind::Sinkhorn;
            data.groups = GroupSource::Separate;
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|preset| preset.name() == text);
        known.ok_or_else(|| Error::config("preset", Self::ALL.map(Self::name).join(", "), text))
    }
}
