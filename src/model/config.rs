//! What a model is: the sizes of its two towers, and whose Fair-MoE it follows.

use super::gates::{GateChoice, GateName, GateRows, GateValue};
use crate::config::Activation;
use crate::error::{Error, Result, product};
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
    /// The activation between the two maps of a block's MLP: OpenAI's CLIPs have `quick_gelu`.
    #[serde(default = "quick_gelu")]
    pub hidden_act: Activation,
}

fn quick_gelu() -> Activation {
    Activation::QuickGelu
}

impl ClipConfig {
    /// The smallest that learns: for 64-pixel images, trained from scratch within minutes on a CPU.
    pub fn tiny(context: usize, vocabulary: usize) -> Self {
        let tower = TowerConfig { width: 64, layers: 2, heads: 2 };
        Self { image: 64, patch: 8, vision: tower, context, vocabulary, text: tower, embed: 64, hidden_act: quick_gelu() }
    }

    /// OpenAI's ViT-B/16: 149,620,737 parameters.
    pub fn vit_b16() -> Self {
        Self {
            image: 224,
            patch: 16,
            vision: TowerConfig { width: 768, layers: 12, heads: 12 },
            context: 77,
            vocabulary: 49408,
            text: TowerConfig { width: 512, layers: 12, heads: 8 },
            embed: 512,
            hidden_act: quick_gelu(),
        }
    }

    /// OpenAI's ViT-L/14: 427,616,513 parameters.
    pub fn vit_l14() -> Self {
        Self {
            patch: 14,
            vision: TowerConfig { width: 1024, layers: 24, heads: 16 },
            text: TowerConfig { width: 768, layers: 12, heads: 12 },
            embed: 768,
            ..Self::vit_b16()
        }
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
        // Each has some sixteen parameters of its own.
        const MOST_LAYERS: usize = 1024;
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
            if tower.layers > MOST_LAYERS {
                return Err(Error::config("a tower's layers", format!("from 1 to {MOST_LAYERS}"), tower.layers));
            }
            if !tower.width.is_multiple_of(tower.heads) {
                return Err(Error::config("a tower's width", format!("a multiple of its {} heads", tower.heads), tower.width));
            }
        }
        product("the patch embedding", &[self.vision.width, 3, self.patch, self.patch])?;
        product("the positions of an image", &[self.image_tokens(), self.vision.width])?;
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

    /// What its loss reads of the gates.
    pub fn gates(self) -> GateChoice {
        match self {
            Preset::Paper => GateChoice { gates: GateName::ALL.to_vec(), of: GateValue::Weights, rows: GateRows::NotPadding },
            Preset::Authors => GateChoice { gates: GateName::TEXT.to_vec(), of: GateValue::Weights, rows: GateRows::All },
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
