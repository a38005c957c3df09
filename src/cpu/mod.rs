//! The fast CPU backend: rayon, and a GEMM crate behind one function. Every sum has a fixed order, whatever the number of threads.

pub mod combine;
pub mod contrast;
pub mod experts;
pub mod gate;
pub mod gemm;
pub mod moments;
mod network;
pub mod route;
mod scratch;
mod small;
#[cfg(feature = "model")]
pub mod transformer;
pub mod transport;

use crate::config::MoeConfig;
use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::moe::{GradientMode, MoeInput, MoeState, Routing, Upstream};
use crate::parameters::Parameters;
pub use gemm::Gemm;
#[cfg(feature = "model")]
use rayon::prelude::*;
pub use scratch::Scratch;
use std::borrow::Cow;

/// The layer's output and routing; where `saved` is given, what backward needs of the experts too.
pub fn moe_forward<T: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    y: &mut [T],
    routing: &mut Routing<T::Wide>,
    saved: Option<(&mut Vec<T>, &mut Vec<T>)>,
) -> Result<()> {
    if small::goes_wide::<T>(config, input) {
        return small::forward(config, parameters, input, y, routing, saved);
    }
    gate::forward(config, parameters, input, routing);
    route::forward(config, input, routing)?;
    let outputs = experts::forward(config, parameters, input, routing, saved);
    combine::forward(config, input, routing, outputs.get(), y);
    Ok(())
}

/// The gradients of x and of every parameter.
#[allow(clippy::too_many_arguments, reason = "what the public function takes")]
pub fn moe_backward<T: Element, G: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    state: &MoeState<T>,
    upstream: &Upstream<'_, T>,
    dx: &mut [T],
    gradients: &mut Parameters<&mut [G]>,
    mode: GradientMode,
) -> Result<()> {
    if small::goes_wide::<T>(config, input) {
        return small::backward(config, parameters, input, upstream, dx, gradients, mode);
    }
    let experts = experts::backward(config, parameters, input, state, upstream.dy, gradients, mode);
    let dlogits = route::backward(config, &state.routing, upstream, &experts.dpair);
    let dgate = gate::backward(config, parameters, input, &state.routing, &dlogits, gradients, mode);
    combine::backward(config, input, &state.routing, experts.dx.get(), dgate.get(), upstream.dy, dx);
    Ok(())
}

/// Exact; no copy where the type is wide already.
fn widen<T: Element>(narrow: &[T]) -> Cow<'_, [T::Wide]> {
    match T::DTYPE == T::Wide::DTYPE {
        true => Cow::Borrowed(bytemuck::cast_slice(narrow)),
        false => Cow::Owned(narrow.iter().map(|v| v.wide()).collect()),
    }
}

/// Of a type in another one, on all threads; no copy where it is the same.
#[cfg(feature = "model")]
pub fn convert<S: Element, T: Element>(from: &[S]) -> Cow<'_, [T]> {
    const PART: usize = 1 << 16;
    if S::DTYPE == T::DTYPE {
        return Cow::Borrowed(bytemuck::cast_slice(from));
    }
    let mut to = vec![T::default(); from.len()];
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = T::narrow(T::Wide::from_f64(from.wide().to_f64())));
    });
    Cow::Owned(to)
}

/// factor · from, rounded once.
fn narrow_scaled<T: Element>(factor: T::Wide, from: &[T::Wide], to: &mut [T]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t = T::narrow(factor * f));
}

/// Writes wide sums into the caller's gradient, rounding once.
fn store<W: Float, G: Element>(wide: &[W], to: &mut [G], mode: GradientMode) {
    for (to, wide) in to.iter_mut().zip(wide) {
        let before = if mode == GradientMode::Accumulate { to.to_f64() } else { 0.0 };
        *to = G::from_f64(before + wide.to_f64());
    }
}

/// Σ over rows of a row-major [rows, columns]: blocks of 64 rows first, so that long sums keep their digits.
fn column_sums<W: Float>(matrix: &[W], columns: usize) -> Vec<W> {
    let mut total = vec![W::ZERO; columns];
    for block in matrix.chunks(64 * columns) {
        let mut sum = vec![W::ZERO; columns];
        block.chunks_exact(columns).for_each(|row| add(&mut sum, row));
        add(&mut total, &sum);
    }
    total
}

/// to += from.
fn add<W: Float>(to: &mut [W], from: &[W]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t += f);
}

/// Σ a·b in sixteen interleaved sums, which the compiler turns into vector registers.
fn dot<W: Float>(a: &[W], b: &[W]) -> W {
    const LANES: usize = 16;
    let mut sums = [W::ZERO; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: W = a.remainder().iter().zip(b.remainder()).map(|(&a, &b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.into_iter().sum::<W>() + rest
}
