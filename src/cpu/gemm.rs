//! The one place that knows which crate multiplies matrices: gemmkit, whose parallel products have the bits of its serial ones.

use super::{store, widen};
use crate::dtype::Element;
use crate::moe::GradientMode;
use gemmkit::{Bias, MatMut, MatRef, Parallelism};
use half::{bf16, f16};

/// A matrix in memory: row-major, or the transpose of a row-major one.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// `data` holds the rows one after the other.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, transposed: false }
    }

    /// Its transpose, without a copy.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// The same matrix with its elements in another type.
    fn with<U>(self, data: &[U]) -> Matrix<'_, U> {
        Matrix { data, rows: self.rows, columns: self.columns, transposed: self.transposed }
    }

    fn view(self) -> MatRef<'a, T> {
        match self.transposed {
            false => MatRef::from_row_major(self.data, self.rows, self.columns),
            true => MatRef::from_col_major(self.data, self.rows, self.columns),
        }
    }
}

/// Products of matrices of one number type, accumulated wide and rounded once. Sealed: nobody else names it.
pub trait Gemm: Sized {
    /// c [m, n] = a [m, k] · b [k, n] + bias [n] (where it is not empty); or that without bias added to c.
    fn gemm(a: Matrix<'_, Self>, b: Matrix<'_, Self>, bias: &[Self], c: &mut [Self], mode: GradientMode);
    /// c [m, n] = a [m, k] · b [k, n] on the calling thread alone, for many small products side by side.
    #[cfg(feature = "model")]
    fn gemm_alone(a: Matrix<'_, Self>, b: Matrix<'_, Self>, c: &mut [Self]);
}

macro_rules! gemm {
    ($t:ident, $one:expr, $zero:expr) => {
        impl Gemm for $t {
            fn gemm(a: Matrix<'_, $t>, b: Matrix<'_, $t>, bias: &[$t], c: &mut [$t], mode: GradientMode) {
                let (m, n) = (a.rows, b.columns);
                if m == 0 || n == 0 {
                    return;
                }
                // An empty sum, as in the gradients of an expert without rows: gemmkit would clear c one element at a time.
                if a.columns == 0 && mode == GradientMode::Overwrite && bias.is_empty() {
                    return c.fill($zero);
                }
                let beta = if mode == GradientMode::Accumulate { $one } else { $zero };
                let bias = (!bias.is_empty()).then_some(Bias::PerCol(bias));
                let c = MatMut::from_row_major(c, m, n);
                gemmkit::gemm_fused($one, a.view(), b.view(), beta, c, bias, None, Parallelism::Rayon(0));
            }
            #[cfg(feature = "model")]
            fn gemm_alone(a: Matrix<'_, $t>, b: Matrix<'_, $t>, c: &mut [$t]) {
                let c = MatMut::from_row_major(c, a.rows, b.columns);
                gemmkit::gemm($one, a.view(), b.view(), $zero, c, Parallelism::Serial);
            }
        }
    };
}
gemm!(f64, 1.0, 0.0);
gemm!(f32, 1.0, 0.0);
gemm!(f16, f16::ONE, f16::ZERO);
gemm!(bf16, bf16::ONE, bf16::ZERO);

/// c [m, n] = a [m, k] · b [k, n] + bias [n] (where it is not empty).
pub fn product<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>, bias: &[T], c: &mut [T]) {
    T::gemm(a, b, bias, c, GradientMode::Overwrite);
}

/// A parameter's gradient c = a · b in the type of the buffer that the caller owns, rounded once from the wide sum.
pub fn gradient<T: Element, G: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>, c: &mut [G], mode: GradientMode) {
    if T::DTYPE == G::DTYPE {
        return T::gemm(a, b, &[], bytemuck::cast_slice_mut(c), mode);
    }
    let (wide_a, wide_b) = (widen(a.data), widen(b.data));
    let (a, b) = (a.with(&wide_a), b.with(&wide_b));
    if T::Wide::DTYPE == G::DTYPE {
        return T::Wide::gemm(a, b, &[], bytemuck::cast_slice_mut(c), mode);
    }
    let mut wide = vec![T::Wide::default(); c.len()];
    T::Wide::gemm(a, b, &[], &mut wide, GradientMode::Overwrite);
    store(&wide, c, mode);
}
