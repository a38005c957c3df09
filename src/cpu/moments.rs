//! Count, mean and variance of the columns of `[N, M]`, group by group, in one pass that loses no digits.
//!
//! Each group's rows are cut into fixed chunks. A chunk sums its differences to its own first row (so that a common offset cancels
//! before anything is squared), and chunks are merged in order (Chan, Golub, LeVeque 1979): the same bits on any number of threads.

use crate::dtype::Float;
use crate::error::{Error, Result, expect_shape, product};
use crate::fol::check_ids;
use rayon::prelude::*;

/// Rows that are summed before they are merged.
const CHUNK: usize = 256;

/// What [`forward`] finds in G groups of rows of M columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// `[G]` the number of rows.
    pub count: Vec<usize>,
    /// `[G, M]` the mean; 0 in a group without rows.
    pub mean: Vec<f64>,
    /// `[G, M]` the unbiased variance (divided by n - 1); 0 in a group of fewer than two rows.
    pub variance: Vec<f64>,
}

/// The moments of x `[N, M]`, M = `columns`, in each of `groups` groups; `group` `[N]` holds each row's, or -1 for a row in none.
///
/// # Errors
/// When shapes disagree, there are no columns, there are more than 65,536 groups, a group id is out of range, or there is no memory
/// for `[G, M]`.
pub fn forward<W: Float>(x: &[W], columns: usize, group: &[i64], groups: usize) -> Result<Moments> {
    check(x, columns, group, groups)?;
    let sizes = [groups, columns];
    let (mut mean, mut variance) = (zeros(&sizes)?, zeros(&sizes)?);
    let mut count = vec![0; groups];

    let mut rows: Vec<usize> = (0..group.len()).filter(|&row| group[row] >= 0).collect();
    rows.sort_by_key(|&row| group[row]);
    let chunks: Vec<&[usize]> = rows.chunk_by(|&a, &b| group[a] == group[b]).flat_map(|rows| rows.chunks(CHUNK)).collect();
    let sums: Vec<Sums> = chunks.par_iter().map(|rows| Sums::of(x, columns, rows)).collect();

    for (rows, sums) in chunks.iter().zip(&sums) {
        let g = group[rows[0]] as usize;
        let to = g * columns..(g + 1) * columns;
        sums.merge(rows.len() as f64, count[g] as f64, &mut mean[to.clone()], &mut variance[to]);
        count[g] += rows.len();
    }
    for (variance, &n) in variance.chunks_exact_mut(columns).zip(&count) {
        variance.iter_mut().for_each(|v| *v = if n > 1 { *v / (n - 1) as f64 } else { 0.0 });
    }
    Ok(Moments { count, mean, variance })
}

/// Adds to dx `[N, M]` the gradient of x: d mean / n + d variance · 2 (x - mean) / (n - 1), each of its row's group. `x`,
/// `columns` and `group` as [`forward`] had them, `moments` as it returned them; `dmean` and `dvariance` `[G, M]`.
///
/// # Errors
/// When shapes disagree, or a group id is out of range.
pub fn backward<W: Float>(
    x: &[W],
    columns: usize,
    group: &[i64],
    moments: &Moments,
    dmean: &[f64],
    dvariance: &[f64],
    dx: &mut [W],
) -> Result<()> {
    let groups = moments.count.len();
    check(x, columns, group, groups)?;
    expect_shape("the gradient of x", &[group.len(), columns], dx.len())?;
    check_gradients(columns, moments, dmean, dvariance)?;
    let add = |((dx, x), &g): ((&mut [W], &[W]), &i64)| {
        let Ok(g) = usize::try_from(g) else { return };
        let (n, at) = (moments.count[g] as f64, g * columns);
        let of_variance = if n > 1.0 { 2.0 / (n - 1.0) } else { 0.0 };
        for (c, (dx, x)) in dx.iter_mut().zip(x).enumerate() {
            let deviation = x.to_f64() - moments.mean[at + c];
            *dx += W::from_f64(dmean[at + c] / n + of_variance * dvariance[at + c] * deviation);
        }
    };
    dx.par_chunks_mut(columns).zip(x.par_chunks(columns)).zip(group).with_min_len(CHUNK).for_each(add);
    Ok(())
}

pub(crate) fn check<W>(x: &[W], columns: usize, group: &[i64], groups: usize) -> Result<()> {
    if columns == 0 {
        return Err(Error::config("the number of columns", "at least 1", 0));
    }
    expect_shape("x", &[group.len(), columns], x.len())?;
    check_ids(group, groups)
}

pub(crate) fn check_gradients(columns: usize, moments: &Moments, dmean: &[f64], dvariance: &[f64]) -> Result<()> {
    let all = [("the means", &moments.mean[..]), ("their gradient", dmean), ("the variances' gradient", dvariance)];
    all.into_iter().try_for_each(|(what, values)| expect_shape(what, &[moments.count.len(), columns], values.len()))
}

/// Zeros of this shape, or an error where there is no memory for them.
fn zeros(sizes: &[usize]) -> Result<Vec<f64>> {
    const WHAT: &str = "the moments of all groups";
    let n = product(WHAT, sizes)?;
    let mut zeros = vec![];
    zeros.try_reserve_exact(n).map_err(|_| Error::Refused(format!("there is no memory for {WHAT}, of shape {sizes:?}")))?;
    zeros.resize(n, 0.0);
    Ok(zeros)
}

/// The mean `[M]` of a chunk, and the sum `[M]` of its squared deviations from it.
struct Sums {
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Sums {
    fn of<W: Float>(x: &[W], columns: usize, rows: &[usize]) -> Self {
        let row = |r: usize| &x[r * columns..(r + 1) * columns];
        let mut mean: Vec<f64> = row(rows[0]).iter().map(|x| x.to_f64()).collect();
        let (mut sum, mut squares) = (vec![0.0; columns], vec![0.0; columns]);
        for &r in rows {
            for ((x, shift), (sum, squares)) in row(r).iter().zip(&mean).zip(sum.iter_mut().zip(&mut squares)) {
                let d = x.to_f64() - shift;
                *sum += d;
                *squares += d * d;
            }
        }
        let n = rows.len() as f64;
        for ((mean, sum), squares) in mean.iter_mut().zip(&sum).zip(&mut squares) {
            *mean += sum / n;
            *squares -= sum * sum / n;
            // Rounding alone; `max` would hide a NaN.
            if *squares < 0.0 {
                *squares = 0.0;
            }
        }
        Self { mean, squares }
    }

    /// Merges this chunk of n rows into the sums of the `before` rows before it.
    fn merge(&self, n: f64, before: f64, mean: &mut [f64], squares: &mut [f64]) {
        let share = n / (n + before);
        for c in 0..self.mean.len() {
            let delta = self.mean[c] - mean[c];
            mean[c] += delta * share;
            squares[c] += self.squares[c] + delta * delta * before * share;
        }
    }
}
