//! Distances of two 1-D sample sets of equal weights, with the gradient on the first; on the second it is that of the swapped call.

use crate::error::{Error, Result};
use crate::fol::check_sinkhorn;

/// ½ ∫ (F⁻¹ - G⁻¹)², where each of N samples holds M of N·M equal parts of the unit interval, and each of M samples N of them.
///
/// # Errors
/// When a set is empty.
pub fn exact(x: &[f64], y: &[f64]) -> Result<(f64, Vec<f64>)> {
    check(x, y)?;
    let (n, m) = (x.len(), y.len());
    let (by_x, by_y) = (order(x), order(y));
    let (mut distance, mut dx) = (0.0, vec![0.0; n]);
    for part in 0..n * m {
        let (i, j) = (by_x[part / m], by_y[part / n]);
        distance += 0.5 * (x[i] - y[j]).powi(2) / (n * m) as f64;
        dx[i] += (x[i] - y[j]) / (n * m) as f64;
    }
    Ok((distance, dx))
}

/// The debiased Sinkhorn divergence of geomloss 0.2.6 (p = 2), literally: potentials are averaged once a temperature, then
/// extrapolated once, and the gradient takes them as constants.
///
/// # Errors
/// When a set is empty, or blur or scaling is out of range.
pub fn sinkhorn(x: &[f64], y: &[f64], blur: f64, scaling: f64) -> Result<(f64, Vec<f64>)> {
    check(x, y)?;
    check_sinkhorn(blur, scaling)?;
    let smallest = x.iter().chain(y).copied().fold(f64::INFINITY, f64::min);
    let diameter = x.iter().chain(y).copied().fold(f64::NEG_INFINITY, f64::max) - smallest;
    if !diameter.is_finite() || !x.iter().chain(y).all(|v| v.is_finite()) {
        return Ok((f64::NAN, vec![f64::NAN; x.len()]));
    }
    if diameter == 0.0 {
        return Ok((0.0, vec![0.0; x.len()]));
    }
    // numpy.arange(start, stop, step): so many terms, each from the first two and its number; a running sum rounds elsewhere, and
    // then may have one term more.
    let (start, stop, step) = (2.0 * diameter.ln(), 2.0 * blur.ln(), 2.0 * scaling.ln());
    let (terms, second) = (((stop - start) / step).ceil() as usize, start + step);
    let mut temperatures = vec![diameter * diameter];
    temperatures.extend((0..terms).map(|i| (start + i as f64 * (second - start)).exp()));
    temperatures.push(blur * blur);

    let (log_a, log_b) = (vec![-(x.len() as f64).ln(); x.len()], vec![-(y.len() as f64).ln(); y.len()]);
    let (cost_xy, cost_yx, cost_xx, cost_yy) = (cost(x, y), cost(y, x), cost(x, x), cost(y, y));
    let first = temperatures[0];
    let mut f_ba = softmin(first, &cost_xy, &log_b);
    let mut g_ab = softmin(first, &cost_yx, &log_a);
    let mut f_aa = softmin(first, &cost_xx, &log_a);
    let mut g_bb = softmin(first, &cost_yy, &log_b);
    for e in temperatures {
        let next_f_ba = softmin(e, &cost_xy, &plus(&log_b, &g_ab, e));
        let next_g_ab = softmin(e, &cost_yx, &plus(&log_a, &f_ba, e));
        let next_f_aa = softmin(e, &cost_xx, &plus(&log_a, &f_aa, e));
        let next_g_bb = softmin(e, &cost_yy, &plus(&log_b, &g_bb, e));
        (f_ba, g_ab) = (half(&f_ba, &next_f_ba), half(&g_ab, &next_g_ab));
        (f_aa, g_bb) = (half(&f_aa, &next_f_aa), half(&g_bb, &next_g_bb));
    }
    let e = blur * blur;
    let last_f_ba = softmin(e, &cost_xy, &plus(&log_b, &g_ab, e));
    let last_g_ab = softmin(e, &cost_yx, &plus(&log_a, &f_ba, e));
    let last_f_aa = softmin(e, &cost_xx, &plus(&log_a, &f_aa, e));
    let last_g_bb = softmin(e, &cost_yy, &plus(&log_b, &g_bb, e));
    let distance = mean(&last_f_ba) - mean(&last_f_aa) + mean(&last_g_ab) - mean(&last_g_bb);

    let (p, q) = (plan(e, &cost_xy, &plus(&log_b, &g_ab, e)), plan(e, &cost_xx, &plus(&log_a, &f_aa, e)));
    let dx = (0..x.len()).map(|i| (dot(&q[i], x) - dot(&p[i], y)) / x.len() as f64).collect();
    Ok((distance, dx))
}

fn check(x: &[f64], y: &[f64]) -> Result<()> {
    let empty = x.is_empty() || y.is_empty();
    if empty { Err(Error::config("a sample set", "at least one sample", "empty")) } else { Ok(()) }
}

/// The samples' numbers, smallest sample first; ties by number.
fn order(samples: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by(|&a, &b| samples[a].total_cmp(&samples[b]));
    order
}

/// ½ (from_i - to_j)².
fn cost(from: &[f64], to: &[f64]) -> Vec<Vec<f64>> {
    from.iter().map(|from| to.iter().map(|to| 0.5 * (from - to).powi(2)).collect()).collect()
}

/// -ε logsumexp_j (h_j - cost_ij / ε).
fn softmin(e: f64, cost: &[Vec<f64>], h: &[f64]) -> Vec<f64> {
    cost.iter().map(|row| -e * log_sum(&exponents(e, row, h))).collect()
}

/// softmax_j (h_j - cost_ij / ε).
fn plan(e: f64, cost: &[Vec<f64>], h: &[f64]) -> Vec<Vec<f64>> {
    let one = |exponents: Vec<f64>| exponents.iter().map(|v| (v - log_sum(&exponents)).exp()).collect();
    cost.iter().map(|row| one(exponents(e, row, h))).collect()
}

fn exponents(e: f64, row: &[f64], h: &[f64]) -> Vec<f64> {
    h.iter().zip(row).map(|(h, cost)| h - cost / e).collect()
}

fn log_sum(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + values.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
}

fn plus(log_weights: &[f64], potential: &[f64], e: f64) -> Vec<f64> {
    log_weights.iter().zip(potential).map(|(log, p)| log + p / e).collect()
}

fn half(old: &[f64], new: &[f64]) -> Vec<f64> {
    old.iter().zip(new).map(|(old, new)| 0.5 * (old + new)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
