//! Gather-and-sum: each row is written once, its pairs added in the order of its choices.

use crate::config::MoeConfig;
use crate::dtype::{Element, Float};
use crate::moe::{MoeInput, NO_PAIR, Routing};
use rayon::prelude::*;

/// Where a row's parts stand in the experts' outputs.
struct Rows<'a, W> {
    config: &'a MoeConfig,
    routing: &'a Routing<W>,
    /// Where the shared expert's row stands behind the pairs; empty without a shared expert.
    shared: Vec<usize>,
}

impl<'a, W: Float> Rows<'a, W> {
    fn new<T: Element>(config: &'a MoeConfig, input: &MoeInput<'_, T>, routing: &'a Routing<W>) -> Self {
        let rows = if config.shared_expert { input.rows() } else { 0 };
        let next = |at: &mut usize, row| Some(std::mem::replace(at, *at + input.is_needed(row) as usize));
        let shared = (0..rows).scan(routing.pairs(), next).collect();
        Self { config, routing, shared }
    }

    /// Adds factor · from[pair] to a row's sum, for each pair of the row; the shared expert with factor 1.
    fn gather<T: Element<Wide = W>>(&self, row: usize, from: &[T], weighted: bool, sum: &mut [W]) {
        let (d, k) = (self.config.width, self.config.top_k);
        for &pair in self.routing.row_pairs[row * k..][..k].iter().filter(|&&pair| pair != NO_PAIR) {
            let factor = if weighted { self.routing.pair_weight[pair as usize] } else { W::ONE };
            add_scaled(sum, factor, &from[pair as usize * d..][..d]);
        }
        if let Some(at) = self.shared.get(row) {
            add_scaled(sum, W::ONE, &from[at * d..][..d]);
        }
    }
}

fn add_scaled<T: Element>(to: &mut [T::Wide], factor: T::Wide, from: &[T]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f.wide());
}

/// y = Σ weight · output + shared - x for the rows that are needed, 0 for the others.
pub fn forward<T: Element>(config: &MoeConfig, input: &MoeInput<'_, T>, routing: &Routing<T::Wide>, outputs: &[T], y: &mut [T]) {
    let rows = Rows::new(config, input, routing);
    y.par_chunks_mut(config.width).enumerate().with_min_len(16).for_each(|(row, y)| {
        let mut sum = vec![T::Wide::ZERO; config.width];
        if input.is_needed(row) {
            rows.gather(row, outputs, true, &mut sum);
            if config.subtract_input {
                add_scaled(&mut sum, -T::Wide::ONE, input.row(row, config.width));
            }
        }
        y.iter_mut().zip(sum).for_each(|(y, s)| *y = T::narrow(s));
    });
}

/// dx = Σ the pairs' dx + the gate's dx - dy (where the layer subtracts its input).
pub fn backward<T: Element>(
    config: &MoeConfig,
    input: &MoeInput<'_, T>,
    routing: &Routing<T::Wide>,
    dpairs: &[T],
    dgate: &[T::Wide],
    dy: &[T],
    dx: &mut [T],
) {
    let (d, rows) = (config.width, Rows::new(config, input, routing));
    dx.par_chunks_mut(d).enumerate().with_min_len(16).for_each(|(row, dx)| {
        let mut sum = dgate[row * d..][..d].to_vec();
        if input.is_needed(row) {
            rows.gather(row, dpairs, false, &mut sum);
            if config.subtract_input {
                add_scaled(&mut sum, -T::Wide::ONE, &dy[row * d..][..d]);
            }
        }
        dx.iter_mut().zip(sum).for_each(|(x, s)| *x = T::narrow(s));
    });
}
