//! What a transformer is made of, from candle's plain operations.
//!
//! candle's own fused LayerNorm and softmax cut the gradient without a word; these do not.

use candle_core::{D, Result, Tensor};

/// (x - mean) / √(variance + 1e-5) · weight + bias over the last dimension; the variance is the biased one, as in PyTorch.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let unit = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
    unit.broadcast_mul(weight)?.broadcast_add(bias)
}

/// x Wᵀ over the last dimension; weight [out, in].
pub(super) fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, width) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = x.elem_count() / width;
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    x.reshape((rows, width))?.matmul(&weight.t()?)?.reshape(shape)
}

/// x · sigmoid(1.702 x).
pub(super) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    // 1 / (1 + exp(-1.702 x)) in three plain operations, all of which have gradients.
    x / ((x * -1.702)?.exp()? + 1.0)?
}

/// Rows of length 1.
pub(super) fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
