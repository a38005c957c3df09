//! softmax(q kᵀ / √(D / heads)) v in every head, and back. Nothing is kept: backward computes the softmax again.

use crate::cpu::dot;
use crate::cpu::gemm::{Gemm, Matrix};
use crate::dtype::{Element, Float};
use rayon::prelude::*;

/// The shape of an attention over `[B, T, D]`.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub samples: usize,
    pub tokens: usize,
    pub width: usize,
    /// They divide the width.
    pub heads: usize,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
}

impl Attention {
    /// The mixed values `[B, T, D]` of q, k and v `[B, T, D]`.
    pub fn forward<T: Element>(&self, q: &[T], k: &[T], v: &[T]) -> Vec<T> {
        let heads = (0..self.samples * self.heads).into_par_iter().map(|head| {
            let [q, k, v] = [q, k, v].map(|from| self.take(from, head));
            let shares = self.shares(&q, &k);
            self.mix(&shares, &v)
        });
        self.merge(&heads.collect::<Vec<_>>())
    }

    /// The gradients on q, k and v, from that on the mixed values.
    pub fn backward<T: Element>(&self, q: &[T], k: &[T], v: &[T], dy: &[T]) -> [Vec<T>; 3] {
        let heads = (0..self.samples * self.heads).into_par_iter().map(|head| {
            let [q, k, v, dy] = [q, k, v, dy].map(|from| self.take(from, head));
            let shares = self.shares(&q, &k);
            let dv = self.mix_back(&shares, &dy);
            let mut dscores = vec![T::Wide::ZERO; shares.len()];
            T::Wide::gemm_alone(self.matrix(&dy), self.matrix(&v).t(), &mut dscores);
            self.softmax_back(&shares, &mut dscores);
            [self.mix(&dscores, &k), self.mix_back(&dscores, &q), dv]
        });
        let heads: Vec<[Vec<T::Wide>; 3]> = heads.collect();
        let mut parts = [vec![], vec![], vec![]];
        for head in heads {
            parts.iter_mut().zip(head).for_each(|(all, one)| all.push(one));
        }
        parts.map(|heads| self.merge(&heads))
    }

    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// What scores are multiplied by.
    fn scale<W: Float>(&self) -> W {
        W::from_f64((self.head_width() as f64).powf(-0.5))
    }

    fn matrix<'a, W: Float>(&self, rows: &'a [W]) -> Matrix<'a, W> {
        Matrix::new(rows, self.tokens, self.head_width())
    }

    /// `[T, D / heads]` one head of one sample.
    fn take<T: Element>(&self, from: &[T], head: usize) -> Vec<T::Wide> {
        let (sample, width) = (&from[head / self.heads * self.tokens * self.width..], self.head_width());
        let rows = sample.chunks_exact(self.width).take(self.tokens);
        rows.flat_map(|row| row[head % self.heads * width..][..width].iter().map(|v| v.wide())).collect()
    }

    /// `[B, T, D]` of all heads.
    fn merge<T: Element>(&self, heads: &[Vec<T::Wide>]) -> Vec<T> {
        let width = self.head_width();
        let mut whole = vec![T::default(); self.samples * self.tokens * self.width];
        whole.par_chunks_mut(self.width).enumerate().with_min_len(16).for_each(|(row, to)| {
            let own = &heads[row / self.tokens * self.heads..][..self.heads];
            for (to, head) in to.chunks_exact_mut(width).zip(own) {
                let from = &head[row % self.tokens * width..][..width];
                to.iter_mut().zip(from).for_each(|(to, &v)| *to = T::narrow(v));
            }
        });
        whole
    }

    /// `[T, T]` each token's shares in what it sees.
    fn shares<W: Float>(&self, q: &[W], k: &[W]) -> Vec<W> {
        let mut shares = vec![W::ZERO; self.tokens * self.tokens];
        W::gemm_alone(self.matrix(q), self.matrix(k).t(), &mut shares);
        for (t, row) in shares.chunks_exact_mut(self.tokens).enumerate() {
            let (seen, hidden) = row.split_at_mut(if self.causal { t + 1 } else { self.tokens });
            hidden.fill(W::ZERO);
            let highest = seen.iter().copied().fold(seen[0], |a, b| if b > a { b } else { a });
            seen.iter_mut().for_each(|s| *s = (self.scale::<W>() * (*s - highest)).exp());
            let total: W = seen.iter().copied().sum();
            seen.iter_mut().for_each(|s| *s = *s / total);
        }
        shares
    }

    /// shares · rows.
    fn mix<W: Float>(&self, shares: &[W], rows: &[W]) -> Vec<W> {
        let mut mixed = vec![W::ZERO; rows.len()];
        W::gemm_alone(Matrix::new(shares, self.tokens, self.tokens), self.matrix(rows), &mut mixed);
        mixed
    }

    /// sharesᵀ · rows.
    fn mix_back<W: Float>(&self, shares: &[W], rows: &[W]) -> Vec<W> {
        let mut mixed = vec![W::ZERO; rows.len()];
        W::gemm_alone(Matrix::new(shares, self.tokens, self.tokens).t(), self.matrix(rows), &mut mixed);
        mixed
    }

    /// The gradient on q kᵀ in place of that on the shares.
    fn softmax_back<W: Float>(&self, shares: &[W], gradient: &mut [W]) {
        let rows = gradient.chunks_exact_mut(self.tokens).zip(shares.chunks_exact(self.tokens));
        rows.for_each(|(gradient, shares)| {
            let common = dot(gradient, shares);
            gradient.iter_mut().zip(shares).for_each(|(g, &s)| *g = self.scale::<W>() * s * (*g - common));
        });
    }
}
