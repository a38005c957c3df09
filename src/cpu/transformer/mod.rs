//! What a transformer is made of beside the mixtures, forward and backward: linear maps, layer norms and attention. Whatever the
//! dtype, sums, norms and softmax are wide; every sum has a fixed order, whatever the number of threads.

pub mod attention;
pub mod linear;
pub mod norm;

use super::add;
use crate::dtype::Float;
use rayon::prelude::*;

/// Rows that one thread takes at a time; their sums are added in order.
const BLOCK: usize = 64;

/// Σ of vectors of `columns` numbers, one vector from each of `blocks` blocks, in their order.
fn sum_blocks<W: Float>(blocks: usize, columns: usize, one: impl Fn(usize) -> Vec<W> + Sync + Send) -> Vec<W> {
    let all: Vec<Vec<W>> = (0..blocks).into_par_iter().map(one).collect();
    let mut total = vec![W::ZERO; columns];
    all.iter().for_each(|sum| add(&mut total, sum));
    total
}
