//! What decides a run: with equal settings and data, two runs give equal bytes.

use super::adam::AdamConfig;
use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::error::{Error, Result};
use crate::fol::FolConfig;
use crate::model::Preset;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The size of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// [`crate::model::ClipConfig::tiny`], trained from scratch.
    Tiny,
}

/// What text a training image is matched with. A sample without a note always has its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextSource {
    /// Its summarised note.
    Note,
    /// The prompt of its label.
    Label,
    /// Either, by the toss of a coin in each epoch.
    Mix,
}

/// Everything that can be chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The size of both models.
    pub arch: Arch,
    /// Whose mixtures and loss Fair-MoE has.
    pub preset: Preset,
    /// The attribute whose groups Fair-MoE treats alike.
    pub attribute: String,
    /// The training texts.
    pub text: TextSource,
    /// Passes over the training split.
    pub epochs: usize,
    /// B, samples in a step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// The highest learning rate: reached in a straight line over the first tenth of the steps, then lowered to 0 along a cosine.
    pub rate: f64,
    /// The optimiser.
    pub adam: AdamConfig,
    /// In each epoch an image is moved by up to so many pixels either way, and mirrored or not.
    pub shift: usize,
    /// Weight of the groups' distances in Fair-MoE's loss.
    pub lambda_distance: f64,
    /// Weight of the groups' dispersions; and of the batch's own, where the preset has it.
    pub lambda_dispersion: f64,
    /// Decides parameters, order and texts.
    pub seed: u64,
}

impl Settings {
    /// For arch `tiny` from scratch. The preset governs the mixtures and the loss; what is published for fine-tuning a
    /// pretrained model (a rate of 1e-5 and so on) would not get a fresh one anywhere.
    pub fn tiny(preset: Preset) -> Self {
        let loss = preset.loss();
        Self {
            arch: Arch::Tiny,
            preset,
            attribute: ATTRIBUTES[0].into(),
            text: TextSource::Mix,
            epochs: 10,
            batch: 32,
            rate: 1e-3,
            adam: AdamConfig { betas: [0.9, 0.98], epsilon: 1e-6, decay: 0.1, decoupled: true },
            shift: 4,
            lambda_distance: loss.lambda_distance,
            lambda_dispersion: loss.lambda_dispersion,
            seed: 1,
        }
    }

    /// Checks that such a run can be.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        self.attribute()?;
        for (what, n) in [("the number of epochs", self.epochs), ("the batch", self.batch)] {
            if !(1..=1 << 20).contains(&n) {
                return Err(Error::config(what, "from 1 to 1048576", n));
            }
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(Error::config("the learning rate", "a number above 0", self.rate));
        }
        crate::Fol::new(self.loss()).map(drop)
    }

    /// Fair-MoE's loss.
    pub fn loss(&self) -> FolConfig {
        let preset = self.preset.loss();
        FolConfig {
            lambda_distance: self.lambda_distance,
            lambda_dispersion: self.lambda_dispersion,
            // The published code has one weight for both.
            lambda_batch_variance: if preset.lambda_batch_variance == 0.0 { 0.0 } else { self.lambda_dispersion },
            ..preset
        }
    }

    /// Which of the [`ATTRIBUTES`] it is, and how many groups that has.
    ///
    /// # Errors
    /// When there is no such attribute.
    pub fn attribute(&self) -> Result<(usize, usize)> {
        let place = ATTRIBUTES.iter().position(|name| *name == self.attribute);
        let place = place.ok_or_else(|| Error::config("the attribute", ATTRIBUTES.join(", "), &self.attribute))?;
        Ok((place, GROUP_NAMES[place].len()))
    }

    /// The learning rate of a step, counted from 0, of `total`.
    pub(super) fn rate_at(&self, step: u64, total: u64) -> f64 {
        let warm = (total / 10).max(1);
        if step < warm {
            return self.rate * (step + 1) as f64 / warm as f64;
        }
        let done = (step - warm) as f64 / (total - warm).max(1) as f64;
        self.rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

impl fmt::Display for Settings {
    /// One setting a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(self) else { return Err(fmt::Error) };
        for (name, value) in settings {
            writeln!(f, "  {name:<18} {}", value.to_string().replace('"', ""))?;
        }
        writeln!(f, "  {:<18} the epoch with the highest validation AUC", "selected")?;
        writeln!(f, "  {:<18} ids in the one batch: groups cost no forward passes of their own", "groups")
    }
}
