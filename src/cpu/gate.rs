//! The gate: logits = W2·act(W1·x + b1) + b2, or W2·x + b2; softmax; the K likeliest experts of each row. All of it wide.

use super::gemm::{Matrix, gradient, product};
use super::{Scratch, column_sums, store, widen};
use crate::config::MoeConfig;
use crate::dtype::{Element, Float};
use crate::moe::{GradientMode, MoeInput, Routing};
use crate::parameters::{Param, Parameters};
use rayon::prelude::*;
use std::borrow::Cow;
use std::cmp::Ordering;

/// hidden, logits, probabilities and chosen.
pub fn forward<T: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    routing: &mut Routing<T::Wide>,
) {
    let (rows, experts, k) = (input.rows(), config.experts.count, config.top_k);
    let x = widen(input.x);
    let affine = |x: &[T::Wide], inputs: usize, weight: Param, bias: Param, outputs: usize, to: &mut Vec<T::Wide>| {
        to.resize(rows * outputs, T::Wide::ZERO);
        let (weight, bias) = (widen(parameters[weight]), widen(parameters[bias]));
        product(Matrix::new(x, rows, inputs), Matrix::new(&weight, outputs, inputs).t(), &bias, to);
    };
    routing.hidden.clear();
    if let Some(hidden) = config.gate.hidden {
        affine(&x, config.width, Param::GateFc1Weight, Param::GateFc1Bias, hidden.width, &mut routing.hidden);
    }
    let (features, width) = features(config, &x, &routing.hidden);
    affine(&features, width, Param::GateFc2Weight, Param::GateFc2Bias, experts, &mut routing.logits);

    routing.probabilities.resize(rows * experts, T::Wide::ZERO);
    routing.chosen.resize(rows * k, 0);
    let each = routing.probabilities.par_chunks_mut(experts).zip(routing.chosen.par_chunks_mut(k));
    each.zip(routing.logits.par_chunks(experts)).with_min_len(64).for_each(|((probabilities, chosen), logits)| {
        softmax(logits, probabilities);
        top_k(logits, chosen);
    });
}

/// What the last linear map reads, and its width: the activated hidden layer, or x itself.
fn features<'a, W: Float>(config: &MoeConfig, x: &'a [W], hidden: &[W]) -> (Cow<'a, [W]>, usize) {
    let Some(layer) = config.gate.hidden else { return (Cow::Borrowed(x), config.width) };
    let mut value = vec![W::ZERO; hidden.len()];
    layer.activation.values(hidden, &mut value);
    (Cow::Owned(value), layer.width)
}

fn softmax<W: Float>(logits: &[W], probabilities: &mut [W]) {
    let highest = logits.iter().copied().fold(logits[0], |a, b| if b > a { b } else { a });
    let mut total = W::ZERO;
    for (p, &z) in probabilities.iter_mut().zip(logits) {
        *p = (z - highest).exp();
        total += *p;
    }
    probabilities.iter_mut().for_each(|p| *p = *p / total);
}

/// By logits, which stay apart where their probabilities round to the same number. Ties: the lowest expert.
fn top_k<W: Float>(logits: &[W], chosen: &mut [u32]) {
    for i in 0..chosen.len() {
        let (before, rest) = chosen.split_at_mut(i);
        let free = (0..logits.len() as u32).filter(|e| !before.contains(e));
        let better = |a: u32, b: u32| if higher_first(logits[b as usize], logits[a as usize]) == Ordering::Less { b } else { a };
        rest[0] = free.reduce(better).unwrap_or(0);
    }
}

/// Descending order, in which NaN comes last.
pub fn higher_first<W: Float>(a: W, b: W) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// From the gradient on the logits: the gate's own gradients, and `[N, D]` its share of dx.
pub fn backward<T: Element, G: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    routing: &Routing<T::Wide>,
    dlogits: &[T::Wide],
    gradients: &mut Parameters<&mut [G]>,
    mode: GradientMode,
) -> Scratch {
    let (rows, experts) = (input.rows(), config.experts.count);
    let x = widen(input.x);
    let mut affine = |x: &[T::Wide], inputs: usize, weight: Param, bias: Param, outputs: usize, dy: &[T::Wide]| {
        let dy_matrix = Matrix::new(dy, rows, outputs);
        gradient(dy_matrix.t(), Matrix::new(x, rows, inputs), gradients[weight], mode);
        if config.gate.bias {
            store(&column_sums(dy, outputs), gradients[bias], mode);
        }
        let mut dx = Scratch::new::<T::Wide>(rows * inputs);
        product(dy_matrix, Matrix::new(&widen(parameters[weight]), outputs, inputs), &[], dx.get_mut());
        dx
    };
    let (features, width) = features(config, &x, &routing.hidden);
    let mut dfeatures = affine(&features, width, Param::GateFc2Weight, Param::GateFc2Bias, experts, dlogits);
    let Some(hidden) = config.gate.hidden else { return dfeatures };
    dfeatures.get_mut::<T::Wide>().par_chunks_mut(width).zip(routing.hidden.par_chunks(width)).with_min_len(64).for_each(
        |(g, pre)| {
            g.iter_mut().zip(pre).for_each(|(g, &v)| *g *= hidden.activation.slope(v));
        },
    );
    affine(&x, config.width, Param::GateFc1Weight, Param::GateFc1Bias, width, dfeatures.get())
}
