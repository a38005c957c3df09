//! What a model is: the sizes of its two towers, and its mixtures.

use crate::config::MoeConfig;
use crate::error::{Error, Result};
use crate::fol::FolConfig;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TowerConfig {
    /// D.
    pub width: usize,
    /// How many blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
}

/// The sizes of a CLIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Pixels along each side of the image.
    pub image: usize,
    /// Pixels along each side of a patch; divides the image.
    pub patch: usize,
    /// The image tower.
    pub vision: TowerConfig,
    /// Tokens of a text, padding included.
    pub context: usize,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// The text tower.
    pub text: TowerConfig,
    /// Width of the features that images and texts share.
    pub embed: usize,
}

impl ClipConfig {
    /// The smallest that learns: for 64-pixel images, trained from scratch within minutes on a CPU.
    pub fn tiny(context: usize, vocabulary: usize) -> Self {
        let tower = TowerConfig { width: 64, layers: 2, heads: 2 };
        Self { image: 64, patch: 8, vision: tower, context, vocabulary, text: tower, embed: 64 }
    }

    /// Tokens of an image: its patches, and the class token before them.
    pub fn image_tokens(&self) -> usize {
        let side = self.image / self.patch.max(1);
        side.saturating_mul(side).saturating_add(1)
    }

    /// Checks that such a model can exist, and that its sizes are not absurd.
    ///
    /// # Errors
    /// Names the first size that is out of its range.
    pub fn check(&self) -> Result<()> {
        const LARGEST: usize = 1 << 20;
        let sizes = [self.image, self.patch, self.context, self.vocabulary, self.embed];
        let towers = [self.vision, self.text];
        let all = sizes.into_iter().chain(towers.into_iter().flat_map(|t| [t.width, t.layers, t.heads]));
        if let Some(size) = all.into_iter().find(|size| !(1..=LARGEST).contains(size)) {
            return Err(Error::config("every size of a model", format!("from 1 to {LARGEST}"), size));
        }
        if !self.image.is_multiple_of(self.patch) {
            return Err(Error::config("the image's side", format!("a multiple of the patch's, {}", self.patch), self.image));
        }
        for tower in towers {
            if !tower.width.is_multiple_of(tower.heads) {
                return Err(Error::config("a tower's width", format!("a multiple of its {} heads", tower.heads), tower.width));
            }
        }
        Ok(())
    }
}

/// Whose Fair-MoE: the paper's equations or the authors' released code. Governs the mixtures and the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's equations.
    Paper,
    /// The released code.
    Authors,
}

impl Preset {
    /// Its loss.
    pub fn loss(self) -> FolConfig {
        match self {
            Preset::Paper => FolConfig::paper(),
            Preset::Authors => FolConfig::authors(),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Paper => "paper",
            Preset::Authors => "authors",
        })
    }
}

impl FromStr for Preset {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "paper" => Ok(Preset::Paper),
            "authors" => Ok(Preset::Authors),
            _ => Err(Error::config("preset", "paper or authors", s)),
        }
    }
}

/// The four mixtures of Fair-MoE.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixtures {
    /// In the last block of the image tower.
    pub vision_token: MoeConfig,
    /// In the last block of the text tower.
    pub text_token: MoeConfig,
    /// Behind the image's projection.
    pub vision_feature: MoeConfig,
    /// Behind the text's projection.
    pub text_feature: MoeConfig,
    /// Whether the experts of the last blocks run only on the rows that are read afterwards: the class token's and the end
    /// token's. Exact: nothing reads the others.
    pub prune: bool,
}

impl Mixtures {
    /// A preset's, with one feature expert for each of the attribute's `groups`.
    pub fn preset(preset: Preset, config: &ClipConfig, groups: usize) -> Self {
        let (token, feature) = match preset {
            Preset::Paper => (MoeConfig::token_paper as fn(_) -> _, MoeConfig::feature_paper(config.embed, groups)),
            Preset::Authors => (MoeConfig::token_authors as fn(_) -> _, MoeConfig::feature_authors(config.embed, groups)),
        };
        Self {
            vision_token: token(config.vision.width),
            text_token: token(config.text.width),
            vision_feature: feature.clone(),
            text_feature: feature,
            prune: true,
        }
    }
}
