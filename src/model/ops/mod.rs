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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Numbers in ±1, others for each `start`.
    fn var(start: f64, shape: &[usize]) -> Var {
        let numbers: Vec<f64> = (0..shape.iter().product()).map(|i| (start + 1.7 * i as f64).sin()).collect();
        Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Both operations say the same of these inputs, and give each the same gradient.
    #[track_caller]
    fn agree(bound: f64, inputs: &[&Var], fused: impl Fn() -> Result<Tensor>, plain: impl Fn() -> Result<Tensor>) {
        let near = |a: &Tensor, b: &Tensor| {
            assert_eq!(a.dims(), b.dims());
            let pairs = numbers(a).into_iter().zip(numbers(b));
            pairs.for_each(|(a, b)| assert!((a - b).abs() <= bound * (1.0 + b.abs()), "{a} and {b}"));
        };
        let (fused, plain) = (fused().unwrap(), plain().unwrap());
        near(&fused, &plain);
        let upstream = var(0.3, plain.dims());
        let [fused, plain] = [fused, plain].map(|y| (y * upstream.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap());
        for input in inputs {
            let (fused, plain) = (fused.get(input).unwrap(), plain.get(input).unwrap());
            near(fused, plain);
            assert!(numbers(plain).iter().any(|g| *g != 0.0));
        }
    }

    #[test]
    fn norms_are_the_same_on_every_device() {
        let (x, weight, bias) = (var(1.0, &[2, 5, 6]), var(2.0, &[6]), var(3.0, &[6]));
        agree(1e-12, &[&x, &weight, &bias], || fused::layer_norm(&x, &weight, &bias), || plain::layer_norm(&x, &weight, &bias));
    }

    #[test]
    fn linear_maps_are_the_same_on_every_device() {
        let (x, weight, bias) = (var(1.0, &[2, 5, 6]), var(2.0, &[7, 6]), var(3.0, &[7]));
        for act in Activation::ALL.map(Some).into_iter().chain([None]) {
            let bias_too = Some(bias.as_tensor());
            // candle's own derivative of GELU has seven digits.
            let bound = if act == Some(Activation::Gelu) { 1e-6 } else { 1e-12 };
            agree(
                bound,
                &[&x, &weight, &bias],
                || fused::linear(&x, act, &weight, bias_too),
                || plain::linear(&x, act, &weight, bias_too),
            );
            agree(bound, &[&x, &weight], || fused::linear(&x, act, &weight, None), || plain::linear(&x, act, &weight, None));
        }
    }

    #[test]
    fn attention_is_the_same_on_every_device() {
        let [q, k, v] = [1.0, 2.0, 3.0].map(|start| var(start, &[2, 5, 6]));
        for (heads, causal) in [(1, false), (2, false), (3, true), (6, true)] {
            agree(
                1e-12,
                &[&q, &k, &v],
                || fused::attention(&q, &k, &v, heads, causal),
                || plain::attention(&q, &k, &v, heads, causal),
            );
        }
    }
}
