//! Group-wise moments of columns, in two passes.

use crate::error::{Result, expect_shape};
use crate::fol::check_ids;

/// Moments of x `[N, M]`, M = `columns`, in each group; `group` `[N]` holds each row's, or -1. Gives the count `[G]`, the mean
/// `[G, M]` and the variance `[G, M]`, divided by n - 1; both are 0 where there are too few rows.
///
/// # Errors
/// When shapes disagree, there are more than 65,536 groups, or a group id is out of range.
pub fn forward(x: &[f64], columns: usize, group: &[i64], groups: usize) -> Result<(Vec<usize>, Vec<f64>, Vec<f64>)> {
    expect_shape("x", &[group.len(), columns], x.len())?;
    check_ids(group, groups)?;
    let (mut count, mut mean, mut variance) = (vec![], vec![], vec![]);
    for g in 0..groups {
        let rows: Vec<usize> = (0..group.len()).filter(|&row| group[row] == g as i64).collect();
        let n = rows.len() as f64;
        count.push(rows.len());
        for c in 0..columns {
            let sum: f64 = rows.iter().map(|row| x[row * columns + c]).sum();
            let m = if n > 0.0 { sum / n } else { 0.0 };
            let squares: f64 = rows.iter().map(|row| (x[row * columns + c] - m).powi(2)).sum();
            mean.push(m);
            variance.push(if n > 1.0 { squares / (n - 1.0) } else { 0.0 });
        }
    }
    Ok((count, mean, variance))
}

/// The gradient of x `[N, M]` from those of the mean and the variance `[G, M]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(x: &[f64], columns: usize, group: &[i64], groups: usize, dmean: &[f64], dvariance: &[f64]) -> Result<Vec<f64>> {
    expect_shape("the means' gradient", &[groups, columns], dmean.len())?;
    expect_shape("the variances' gradient", &[groups, columns], dvariance.len())?;
    let (count, mean, _) = forward(x, columns, group, groups)?;
    let mut dx = vec![0.0; x.len()];
    for row in (0..group.len()).filter(|&row| group[row] >= 0) {
        let g = group[row] as usize;
        let n = count[g] as f64;
        for c in 0..columns {
            let (at, of) = (row * columns + c, g * columns + c);
            dx[at] = dmean[of] / n;
            if n > 1.0 {
                dx[at] += dvariance[of] * 2.0 * (x[at] - mean[of]) / (n - 1.0);
            }
        }
    }
    Ok(dx)
}
