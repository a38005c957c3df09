//! What a transformer is made of. On the CPU these are operations of this crate's own backend, which keep less and take bf16;
//! elsewhere candle's. What is computed has the dtype of x; parameters may have another, and their gradients have theirs.

mod fused;
mod plain;

use crate::config::Activation;
use candle_core::{D, Result, Tensor};

/// (x - mean) / √(variance + 1e-5) · weight + bias over the last dimension; the variance is the biased one, as in PyTorch.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { fused::layer_norm(x, weight, bias) } else { plain::layer_norm(x, weight, bias) }
}

/// act(x) Wᵀ + b over the last dimension; weight [out, in].
pub(super) fn linear(x: &Tensor, act: Option<Activation>, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if x.device().is_cpu() { fused::linear(x, act, weight, bias) } else { plain::linear(x, act, weight, bias) }
}

/// softmax(q kᵀ / √(D / heads)) v in each of the heads that the width is cut into; q, k, v [B, T, D]. If `causal`, a token sees
/// only itself and those before it.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    if q.device().is_cpu() { fused::attention(q, k, v, heads, causal) } else { plain::attention(q, k, v, heads, causal) }
}

/// Rows of length 1.
pub(super) fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
