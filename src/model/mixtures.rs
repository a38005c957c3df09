//! The four mixtures of Fair-MoE, and how they sit in a CLIP.

use super::config::{ClipConfig, Preset};
use crate::config::MoeConfig;
use serde::{Deserialize, Serialize};

/// What a token mixture's block takes off its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subtract {
    /// Nothing: h + moe(norm(h)), as the paper has it.
    Nothing,
    /// The mixture's own input: h + moe(norm(h)) - norm(h), as the authors' code has it.
    LayerInput,
    /// What the block adds the mixture to: moe(norm(h)), no residual at all.
    BlockInput,
}

/// The four mixtures, and how they sit in a CLIP.
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
    /// What the last blocks take off; decides [`MoeConfig::subtract_input`] of both token mixtures, whatever stands there.
    pub subtract: Subtract,
    /// Whether a feature mixture's output is added to its input, instead of standing in its place.
    pub feature_residual: bool,
    /// Whether padding behind a text's end token is routed, and so competes for the experts' capacity.
    pub route_padding: bool,
    /// Whether the experts of the last blocks run only on the rows that are read afterwards: the class token's and the end
    /// token's. Exact: nothing reads the others.
    pub prune: bool,
}

impl Mixtures {
    /// A preset's, with one feature expert for each of the attribute's `groups`.
    pub fn preset(preset: Preset, config: &ClipConfig, groups: usize) -> Self {
        let (token, feature, subtract) = match preset {
            Preset::Paper => {
                (MoeConfig::token_paper as fn(_) -> _, MoeConfig::feature_paper(config.embed, groups), Subtract::Nothing)
            }
            Preset::Authors => {
                (MoeConfig::token_authors as fn(_) -> _, MoeConfig::feature_authors(config.embed, groups), Subtract::LayerInput)
            }
        };
        Self {
            vision_token: token(config.vision.width),
            text_token: token(config.text.width),
            vision_feature: feature.clone(),
            text_feature: feature,
            subtract,
            feature_residual: false,
            route_padding: true,
            prune: true,
        }
    }
}
