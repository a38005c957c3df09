//! From candle's plain operations, for every device.
//!
//! candle's own fused LayerNorm and softmax cut the gradient without a word; these do not.

use crate::config::Activation;
use candle_core::{D, Result, Tensor};

/// (x - mean) / √(variance + 1e-5) · weight + bias over the last dimension; the variance is the biased one, as in PyTorch.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let unit = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
    unit.broadcast_mul(&weight.to_dtype(x.dtype())?)?.broadcast_add(&bias.to_dtype(x.dtype())?)
}

/// act(x) Wᵀ + b over the last dimension; weight [out, in].
pub fn linear(x: &Tensor, act: Option<Activation>, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = match act {
        Some(act) => activate(act, x)?,
        None => x.clone(),
    };
    let (out, width) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = x.elem_count() / width;
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    let y = x.reshape((rows, width))?.matmul(&weight.to_dtype(x.dtype())?.t()?)?.reshape(shape)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

fn activate(act: Activation, x: &Tensor) -> Result<Tensor> {
    // x · sigmoid(k x) as x / (1 + exp(-k x)), plain operations all of which have gradients.
    let sigmoid = |k: f64| x / ((x * -k)?.exp()? + 1.0)?;
    match act {
        Activation::Relu => x.relu(),
        Activation::QuickGelu => sigmoid(1.702),
        Activation::Gelu => x.gelu_erf(),
        Activation::Silu => sigmoid(1.0),
    }
}

/// softmax(q kᵀ / √(D / heads)) v in each of the heads that the width is cut into; q, k, v [B, T, D]. If `causal`, a token sees
/// only itself and those before it.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (samples, tokens, width) = q.dims3()?;
    let split = |part: &Tensor| part.reshape((samples, tokens, heads, width / heads))?.transpose(1, 2)?.contiguous();
    let scores = (split(q)? * ((width / heads) as f64).powf(-0.5))?.matmul(&split(k)?.t()?)?;
    let scores = if causal { scores.broadcast_add(&future(tokens, q)?)? } else { scores };
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&split(v)?)?;
    mixed.transpose(1, 2)?.reshape((samples, tokens, width))
}

/// [T, T] what is added to scores so that no token sees a later one; dtype and device as `like`.
fn future(tokens: usize, like: &Tensor) -> Result<Tensor> {
    let hidden = |i: usize| if i % tokens > i / tokens { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens * tokens).map(hidden).collect();
    Tensor::from_vec(mask, (tokens, tokens), like.device())?.to_dtype(like.dtype())
}
