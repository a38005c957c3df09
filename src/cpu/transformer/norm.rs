//! LayerNorm: (x - mean) / √(variance + 1e-5) · weight + bias over rows, and back.

use super::BLOCK;
use crate::cpu::{add, dot};
use crate::dtype::{Element, Float};
use rayon::prelude::*;

/// The gradients of a norm.
pub struct NormGradients<T: Element> {
    /// Like x.
    pub dx: Vec<T>,
    /// `[D]`.
    pub dweight: Vec<T::Wide>,
    /// `[D]`.
    pub dbias: Vec<T::Wide>,
}

/// A row that is being normalised.
struct Row<W> {
    ones: Vec<W>,
    /// (x - mean) / √(variance + 1e-5).
    unit: Vec<W>,
    /// 1 / √(variance + 1e-5).
    scale: W,
}

impl<W: Float> Row<W> {
    fn new(width: usize) -> Self {
        Self { ones: vec![W::ONE; width], unit: vec![W::ZERO; width], scale: W::ONE }
    }

    fn mean(&self, values: &[W]) -> W {
        dot(values, &self.ones) / W::from_f64(values.len() as f64)
    }

    /// Takes the next row. The variance is the biased one, as in PyTorch.
    fn take<T: Element<Wide = W>>(&mut self, x: &[T]) {
        self.unit.iter_mut().zip(x).for_each(|(u, x)| *u = x.wide());
        let mean = self.mean(&self.unit);
        self.unit.iter_mut().for_each(|u| *u -= mean);
        let variance = dot(&self.unit, &self.unit).to_f64() / x.len() as f64;
        self.scale = W::from_f64(1.0 / (variance + 1e-5).sqrt());
        let scale = self.scale;
        self.unit.iter_mut().for_each(|u| *u *= scale);
    }
}

/// y like x; weight and bias `[D]`.
pub fn forward<T: Element>(x: &[T], weight: &[T::Wide], bias: &[T::Wide]) -> Vec<T> {
    let width = weight.len();
    let mut y = vec![T::default(); x.len()];
    y.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).for_each(|(y, x)| {
        let mut row = Row::new(width);
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            row.take(x);
            let affine = row.unit.iter().zip(weight).zip(bias);
            y.iter_mut().zip(affine).for_each(|(y, ((&u, &w), &b))| *y = T::narrow(u * w + b));
        }
    });
    y
}

/// All gradients, from that on y.
pub fn backward<T: Element>(x: &[T], weight: &[T::Wide], dy: &[T]) -> NormGradients<T> {
    let width = weight.len();
    let mut dx = vec![T::default(); x.len()];
    let blocks = dx.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).zip(dy.par_chunks(BLOCK * width));
    let sums: Vec<_> = blocks.map(|((dx, x), dy)| one_block(dx, x, dy, weight)).collect();
    let mut total = NormGradients { dx, dweight: vec![T::Wide::ZERO; width], dbias: vec![T::Wide::ZERO; width] };
    for (dweight, dbias) in &sums {
        add(&mut total.dweight, dweight);
        add(&mut total.dbias, dbias);
    }
    total
}

/// dx of some rows, and their share of the other two gradients.
fn one_block<T: Element>(dx: &mut [T], x: &[T], dy: &[T], weight: &[T::Wide]) -> (Vec<T::Wide>, Vec<T::Wide>) {
    let width = weight.len();
    let zeros = || vec![T::Wide::ZERO; width];
    let (mut row, mut dweight, mut dbias, mut dunit) = (Row::new(width), zeros(), zeros(), zeros());
    for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
        row.take(x);
        for (i, dy) in dy.iter().enumerate() {
            let dy = dy.wide();
            dbias[i] += dy;
            dweight[i] += dy * row.unit[i];
            dunit[i] = dy * weight[i];
        }
        // What all numbers of the row lose through its mean and its variance.
        let (mean, slope) = (row.mean(&dunit), dot(&dunit, &row.unit) / T::Wide::from_f64(width as f64));
        let parts = dunit.iter().zip(&row.unit);
        dx.iter_mut().zip(parts).for_each(|(dx, (&d, &u))| *dx = T::narrow(row.scale * (d - mean - u * slope)));
    }
    (dweight, dbias)
}
