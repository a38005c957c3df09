//! One transformer tower.

use super::config::TowerConfig;
use super::gates::GateScores;
use super::mixtures::Subtract;
use super::ops::{attention, layer_norm, linear};
use super::weights::Weights;
use crate::candle::{MoeRows, moe};
use crate::config::Activation;
use crate::moe::Moe;
use candle_core::{Result, Tensor};

/// A tower's parameters and shape.
pub(super) struct Tower<'a> {
    /// `vision_model` or `text_model`.
    pub name: &'static str,
    /// Its sizes.
    pub config: TowerConfig,
    /// The activation of its MLPs.
    pub hidden_act: Activation,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// All parameters of the model.
    pub weights: &'a Weights,
    /// What stands in place of the last block's MLP.
    pub mixture: Option<TokenMixture<'a>>,
}

/// The token mixture of a tower, and the rows that it must serve.
pub(super) struct TokenMixture<'a> {
    pub layer: &'a Moe,
    pub rows: MoeRows,
    pub subtract: Subtract,
}

impl Tower<'_> {
    /// h [B, T, D] -> the last hidden layer [B, T, D], and what the mixture's gate said.
    pub fn run(&self, mut h: Tensor) -> Result<(Tensor, Option<GateScores>)> {
        let mut gate = None;
        for layer in 0..self.config.layers {
            let block = format!("encoder.layers.{layer}");
            let x = self.norm(&h, &format!("{block}.layer_norm1"))?;
            h = (h + self.attention(&x, &format!("{block}.self_attn"))?)?;
            let x = self.norm(&h, &format!("{block}.layer_norm2"))?;
            let mlp = format!("{block}.mlp");
            h = match &self.mixture {
                Some(mixture) if layer + 1 == self.config.layers => {
                    let parameters = self.get(&mlp)?.to_dtype(x.dtype())?;
                    let out = moe(mixture.layer, &x, &parameters, mixture.rows.clone())?;
                    gate = Some(GateScores { weights: out.weights, probabilities: out.probabilities, logits: out.logits });
                    match mixture.subtract {
                        Subtract::BlockInput => out.y,
                        // The layer itself takes its input off.
                        Subtract::Nothing | Subtract::LayerInput => (h + out.y)?,
                    }
                }
                _ => {
                    let inner = self.linear(&x, None, &format!("{mlp}.fc1"))?;
                    (h + self.linear(&inner, Some(self.hidden_act), &format!("{mlp}.fc2"))?)?
                }
            };
        }
        Ok((h, gate))
    }

    /// Normalises with the parameters of that name.
    pub fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        layer_norm(x, self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?)
    }

    /// A parameter of this tower.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.weights.get(&format!("{}.{name}", self.name))
    }

    fn linear(&self, x: &Tensor, act: Option<Activation>, name: &str) -> Result<Tensor> {
        linear(x, act, self.get(&format!("{name}.weight"))?, Some(self.get(&format!("{name}.bias"))?))
    }

    fn attention(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let part = |part: &str| self.linear(x, None, &format!("{name}.{part}_proj"));
        let mixed = attention(&part("q")?, &part("k")?, &part("v")?, self.config.heads, self.causal)?;
        self.linear(&mixed, None, &format!("{name}.out_proj"))
    }
}
