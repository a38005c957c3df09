//! The settings of the mixtures.

use crate::config::{Activation, Capacity, GateHidden, MoeConfig};
use crate::error::{Error, Result};
use crate::model::{ClipConfig, ExpertsFrom, Mixtures, Subtract};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// How many tokens a capacity is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum CapacityTokens {
    /// Those of the tower: `actual`.
    Actual,
    /// So many whatever the tower: `fixed(197)` in the published code.
    Fixed(usize),
}

/// The mixtures, and where the first parameters come from. Without `mixtures` the others but `weights` mean nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Whether the model has Fair-MoE's four mixtures; otherwise it is a plain CLIP.
    pub mixtures: bool,
    /// A checkpoint to start from; null: fresh parameters.
    pub weights: Option<PathBuf>,
    /// What the token mixtures' experts start as, where `weights` has none: `replaced`, the MLP that they replace; `fresh`; or
    /// `{"layer":11}`, that block's whichever is replaced (published code, where ViT-L/14 replaces block 23).
    pub experts_from: ExpertsFrom,
    /// E of the token mixtures.
    pub token_experts: usize,
    /// K of the token mixtures.
    pub token_top_k: usize,
    /// Activation of the token mixtures' gates.
    pub token_gate_activation: Activation,
    /// Activation of the feature mixtures' gates.
    pub feature_gate_activation: Activation,
    /// Activation of all experts: `quick_gelu`, which CLIP's weights were trained with, or `relu` (published code).
    pub expert_activation: Activation,
    /// Whether a row's chosen weights are divided by their sum.
    pub renormalise: bool,
    /// C = ⌊tokens · factor · K / E⌋; null: no capacity.
    pub capacity_factor: Option<f64>,
    /// Those tokens.
    pub capacity_tokens: CapacityTokens,
    /// What is taken off a token mixture's output: `nothing` (paper), `layer-input` (published code) or `block-input`.
    pub subtract: Subtract,
    /// K of the feature mixtures; null: all their experts (both publications).
    pub feature_top_k: Option<usize>,
    /// Whether a feature mixture's input is added to its output. Without it (both publications) what a pretrained model knows
    /// of images and texts together is lost in the first step, and zero-shot starts at chance.
    pub feature_residual: bool,
    /// Whether padding is routed and competes for capacity (published code).
    pub route_padding: bool,
    /// Whether the last block's experts serve only the rows that something reads; exact.
    pub prune: bool,
}

impl ModelSettings {
    /// The paper's mixtures, with the released code's numbers, for the paper states none.
    pub fn paper() -> Self {
        Self {
            mixtures: true,
            weights: None,
            experts_from: ExpertsFrom::Replaced,
            token_experts: 10,
            token_top_k: 3,
            token_gate_activation: Activation::Relu,
            feature_gate_activation: Activation::QuickGelu,
            expert_activation: Activation::QuickGelu,
            renormalise: false,
            capacity_factor: Some(0.8),
            capacity_tokens: CapacityTokens::Actual,
            subtract: Subtract::Nothing,
            feature_top_k: None,
            feature_residual: false,
            route_padding: true,
            prune: true,
        }
    }

    /// The four mixtures of a model of these sizes, with `groups` feature experts; none in a plain CLIP.
    pub fn build(&self, clip: &ClipConfig, groups: usize) -> Option<Mixtures> {
        let token = |width: usize| {
            let mut moe = MoeConfig::token_paper(width);
            moe.experts.count = self.token_experts;
            moe.top_k = self.token_top_k;
            moe.renormalise = self.renormalise;
            moe.capacity = self.capacity();
            moe.subtract_input = self.subtract == Subtract::LayerInput;
            self.activations(moe, self.token_gate_activation)
        };
        let mut feature = MoeConfig::feature_paper(clip.embed, groups);
        feature.top_k = self.feature_top_k.unwrap_or(groups);
        let feature = self.activations(feature, self.feature_gate_activation);
        self.mixtures.then(|| Mixtures {
            vision_token: token(clip.vision.width),
            text_token: token(clip.text.width),
            vision_feature: feature.clone(),
            text_feature: feature,
            subtract: self.subtract,
            feature_residual: self.feature_residual,
            route_padding: self.route_padding,
            prune: self.prune,
        })
    }

    fn activations(&self, mut moe: MoeConfig, gate: Activation) -> MoeConfig {
        moe.experts.activation = self.expert_activation;
        moe.gate.hidden = moe.gate.hidden.map(|hidden| GateHidden { activation: gate, ..hidden });
        moe
    }

    fn capacity(&self) -> Capacity {
        match (self.capacity_factor, self.capacity_tokens) {
            (None, _) => Capacity::None,
            (Some(factor), CapacityTokens::Actual) => Capacity::Factor(factor),
            // In the order in which the published code multiplies.
            (Some(factor), CapacityTokens::Fixed(tokens)) => {
                let rows = tokens as f64 * factor * self.token_top_k as f64 / self.token_experts as f64;
                Capacity::Fixed((rows as usize).max(1))
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Some(factor) = self.capacity_factor.filter(|factor| !(factor.is_finite() && *factor > 0.0)) {
            return Err(Error::config("the capacity factor", "a number above 0, or null", factor));
        }
        Ok(())
    }
}

impl fmt::Display for CapacityTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Actual => f.write_str("actual"),
            Self::Fixed(tokens) => write!(f, "fixed({tokens})"),
        }
    }
}

impl FromStr for CapacityTokens {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let fixed = || text.strip_prefix("fixed(")?.strip_suffix(')')?.parse().ok();
        match text {
            "actual" => Ok(Self::Actual),
            _ => fixed().map(Self::Fixed).ok_or_else(|| Error::config("capacity_tokens", "actual or fixed(NUMBER)", text)),
        }
    }
}

impl From<CapacityTokens> for String {
    fn from(tokens: CapacityTokens) -> Self {
        tokens.to_string()
    }
}

impl TryFrom<String> for CapacityTokens {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
