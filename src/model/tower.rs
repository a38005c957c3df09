//! One transformer tower.

use super::config::TowerConfig;
use super::ops::{layer_norm, project, quick_gelu};
use super::weights::Weights;
use crate::candle::{MoeRows, moe};
use crate::moe::Moe;
use candle_core::{D, Result, Tensor};

/// A tower's parameters and shape.
pub(super) struct Tower<'a> {
    /// `vision_model` or `text_model`.
    pub name: &'static str,
    /// Its sizes.
    pub config: TowerConfig,
    /// All parameters of the model.
    pub weights: &'a Weights,
    /// What stands in place of the last block's MLP, and the rows that it must serve.
    pub mixture: Option<(&'a Moe, MoeRows)>,
}

impl Tower<'_> {
    /// h [B, T, D] -> the last hidden layer [B, T, D], and the mixture's final weights [B, T, E]. `mask` [T, T] is added to attention scores.
    pub fn run(&self, mut h: Tensor, mask: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
        let mut gate = None;
        for layer in 0..self.config.layers {
            let block = format!("encoder.layers.{layer}");
            let attended =
                self.attention(&self.norm(&h, &format!("{block}.layer_norm1"))?, &format!("{block}.self_attn"), mask)?;
            h = (h + attended)?;
            let x = self.norm(&h, &format!("{block}.layer_norm2"))?;
            let mlp = format!("{block}.mlp");
            let y = match &self.mixture {
                Some((layer_moe, rows)) if layer + 1 == self.config.layers => {
                    let out = moe(layer_moe, &x, self.get(&mlp)?, rows.clone())?;
                    gate = Some(out.weights);
                    out.y
                }
                _ => self.linear(&quick_gelu(&self.linear(&x, &format!("{mlp}.fc1"))?)?, &format!("{mlp}.fc2"))?,
            };
            h = (h + y)?;
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

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        project(x, self.get(&format!("{name}.weight"))?)?.broadcast_add(self.get(&format!("{name}.bias"))?)
    }

    fn attention(&self, x: &Tensor, name: &str, mask: Option<&Tensor>) -> Result<Tensor> {
        let (samples, tokens, width) = x.dims3()?;
        let heads = self.config.heads;
        let split = |part: &str| {
            let part = self.linear(x, &format!("{name}.{part}_proj"))?;
            part.reshape((samples, tokens, heads, width / heads))?.transpose(1, 2)?.contiguous()
        };
        let query = (split("q")? * ((width / heads) as f64).powf(-0.5))?;
        let scores = query.matmul(&split("k")?.t()?)?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&split("v")?)?;
        self.linear(&mixed.transpose(1, 2)?.reshape((samples, tokens, width))?, &format!("{name}.out_proj"))
    }
}
