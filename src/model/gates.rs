//! What the gates of the four mixtures said of a batch, and what of it the loss reads.

use crate::candle::GateTensor;
use crate::moe::Layout;
use candle_core::{D, Result, Tensor};
use serde::{Deserialize, Serialize};

/// What one mixture's gate said of a batch: [B, T, E] of a token mixture, [B, E] of a feature mixture.
#[derive(Clone, Debug)]
pub struct GateScores {
    /// The final weights, zero where an expert does not take a row.
    pub weights: Tensor,
    /// The probabilities of all experts.
    pub probabilities: Tensor,
    /// What these are the softmax of.
    pub logits: Tensor,
}

/// Both mixtures of one side.
#[derive(Clone, Debug)]
pub struct Gates {
    /// In the tower's last block.
    pub token: GateScores,
    /// Behind the projection.
    pub feature: GateScores,
}

/// What the loss reads of the gates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateChoice {
    /// Whose gates; the order does not matter.
    pub gates: Vec<GateName>,
    /// What of them.
    pub of: GateValue,
    /// Which rows of the token mixtures.
    pub rows: GateRows,
}

/// One of the four mixtures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateName {
    /// The image tower's token mixture.
    ImageToken,
    /// The mixture behind the image's projection.
    ImageFeature,
    /// The text tower's token mixture.
    TextToken,
    /// The mixture behind the text's projection.
    TextFeature,
}

impl GateName {
    /// All of them, in the order in which the loss reads them.
    pub const ALL: [GateName; 4] = [GateName::ImageToken, GateName::ImageFeature, GateName::TextToken, GateName::TextFeature];
    /// The text's.
    pub const TEXT: [GateName; 2] = [GateName::TextToken, GateName::TextFeature];
}

/// A tensor of [`GateScores`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateValue {
    /// The final weights.
    Weights,
    /// The probabilities.
    Probabilities,
}

/// Some rows of a token mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateRows {
    /// All of them.
    All,
    /// A text's up to and including its end token; all of an image's.
    NotPadding,
    /// Those that at least one expert takes.
    Selected,
}

impl Gates {
    /// The token's gate as the loss reads it; `text_rows` [B·T] is true where there is no padding.
    pub(super) fn token(&self, choice: &GateChoice, text_rows: Option<&[bool]>) -> Result<GateTensor> {
        let row_mask = match choice.rows {
            GateRows::All => None,
            GateRows::NotPadding => text_rows.map(<[bool]>::to_vec),
            GateRows::Selected => {
                let taken = self.token.weights.detach().sum(D::Minus1)?.flatten_all()?.to_dtype(candle_core::DType::F64)?;
                Some(taken.to_vec1::<f64>()?.iter().map(|&weight| weight > 0.0).collect())
            }
        };
        Ok(GateTensor { weights: self.token.of(choice.of), layout: Layout::SamplesFirst, row_mask })
    }

    /// The feature's gate as the loss reads it.
    pub(super) fn feature(&self, choice: &GateChoice) -> GateTensor {
        GateTensor { weights: self.feature.of(choice.of), layout: Layout::SamplesFirst, row_mask: None }
    }
}

impl GateScores {
    fn of(&self, value: GateValue) -> Tensor {
        match value {
            GateValue::Weights => self.weights.clone(),
            GateValue::Probabilities => self.probabilities.clone(),
        }
    }

    /// The scores of a few samples each, behind each other.
    pub(super) fn join(parts: &[Self]) -> Result<Self> {
        let all = |of: fn(&Self) -> &Tensor| Tensor::cat(&parts.iter().map(of).collect::<Vec<_>>(), 0);
        Ok(Self { weights: all(|s| &s.weights)?, probabilities: all(|s| &s.probabilities)?, logits: all(|s| &s.logits)? })
    }
}
