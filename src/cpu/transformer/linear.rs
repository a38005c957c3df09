//! y = act(x) Wᵀ + b over rows, and back. Backward takes act(x) again instead of having kept it.

use super::{BLOCK, sum_blocks};
use crate::config::Activation;
use crate::cpu::gemm::{Matrix, product};
use crate::cpu::{Scratch, add, narrow_scaled, widen};
use crate::dtype::{Element, Float};
use rayon::prelude::*;

/// Elements that one thread takes at a time.
const PART: usize = 1 << 12;

/// A linear map, and the activation before it.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub activation: Option<Activation>,
    pub inputs: usize,
    pub outputs: usize,
}

/// The gradients of a linear map.
pub struct LinearGradients<T: Element> {
    /// `[rows, inputs]`.
    pub dx: Vec<T>,
    /// `[outputs, inputs]`.
    pub dweight: Vec<T>,
    /// `[outputs]`.
    pub dbias: Vec<T::Wide>,
}

impl Linear {
    /// y `[rows, outputs]` of x `[rows, inputs]`, weight `[outputs, inputs]`, and bias `[outputs]` or empty.
    pub fn forward<T: Element>(&self, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
        let rows = x.len() / self.inputs;
        let mut y = vec![T::default(); rows * self.outputs];
        let weight = Matrix::new(weight, self.outputs, self.inputs).t();
        self.with_features(x, |x| product(Matrix::new(x, rows, self.inputs), weight, bias, &mut y));
        y
    }

    /// All gradients, from that on y `[rows, outputs]`.
    pub fn backward<T: Element>(&self, x: &[T], weight: &[T], dy: &[T]) -> LinearGradients<T> {
        let (rows, columns) = (x.len() / self.inputs, self.outputs);
        let dy_matrix = Matrix::new(dy, rows, columns);
        let mut dweight = vec![T::default(); columns * self.inputs];
        self.with_features(x, |x| product(dy_matrix.t(), Matrix::new(x, rows, self.inputs), &[], &mut dweight));
        let mut dx = vec![T::default(); x.len()];
        product(dy_matrix, Matrix::new(weight, columns, self.inputs), &[], &mut dx);
        if let Some(activation) = self.activation {
            dx.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(dx, x)| {
                let mut both = [T::Wide::ZERO; 2 * PART];
                let (value, slope) = both.split_at_mut(PART);
                activation.values_and_slopes(&widen(x), value, slope);
                dx.iter_mut().zip(slope).for_each(|(dx, &mut slope)| *dx = T::narrow(dx.wide() * slope));
            });
        }
        let dbias = sum_blocks(rows.div_ceil(BLOCK), columns, |block| {
            let mut sum = vec![T::Wide::ZERO; columns];
            let end = (block + 1) * BLOCK * columns;
            dy[block * BLOCK * columns..end.min(dy.len())].chunks_exact(columns).for_each(|row| add(&mut sum, &widen(row)));
            sum
        });
        LinearGradients { dx, dweight, dbias }
    }

    /// Calls `read` with act(x).
    fn with_features<T: Element>(&self, x: &[T], read: impl FnOnce(&[T])) {
        let Some(activation) = self.activation else { return read(x) };
        let mut features = Scratch::new::<T>(x.len());
        features.get_mut::<T>().par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(to, x)| {
            let mut value = [T::Wide::ZERO; PART];
            activation.values(&widen(x), &mut value[..x.len()]);
            narrow_scaled(T::Wide::ONE, &value[..x.len()], to);
        });
        read(features.get());
    }
}
