//! Distance of two 1-D sample sets of equal weights, N and M of them, and its gradient on both; all in f64.
//!
//! Both sets are sorted first, so the order in which samples come changes nothing, and equal sets are exactly 0 apart.

use crate::error::{Error, Result};
use crate::fol::check_sinkhorn;
use rayon::prelude::*;

/// Points that one task of a sweep takes at least.
const POINTS: usize = 64;

/// A distance and its gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// In squared units of the samples. Not finite where a sample is not.
    pub distance: f64,
    /// `[N]`.
    pub dx: Vec<f64>,
    /// `[M]`.
    pub dy: Vec<f64>,
}

/// Half the squared 2-Wasserstein distance: ½ ∫ (F⁻¹ - G⁻¹)² over the merged breakpoints i/N and j/M. Ties go by position.
///
/// # Errors
/// When a set is empty.
pub fn exact(x: &[f64], y: &[f64]) -> Result<Transport> {
    let (x, y) = (Sorted::new("x", x)?, Sorted::new("y", y)?);
    let (n, m) = (x.values.len(), y.values.len());
    // In units of 1/(N·M) breakpoints are whole numbers, and cannot be missed by rounding.
    let whole = n as u128 * m as u128;
    let (mut distance, mut dx, mut dy) = (0.0, vec![0.0; n], vec![0.0; m]);
    let (mut i, mut j, mut at) = (0, 0, 0);
    while at < whole {
        let (end_x, end_y) = ((i as u128 + 1) * m as u128, (j as u128 + 1) * n as u128);
        let end = end_x.min(end_y);
        let mass = (end - at) as f64 / whole as f64;
        let gap = x.values[i] - y.values[j];
        distance += mass * 0.5 * gap * gap;
        dx[i] += mass * gap;
        dy[j] -= mass * gap;
        (i, j, at) = (i + usize::from(end == end_x), j + usize::from(end == end_y), end);
    }
    Ok(Transport { distance, dx: x.unsort(dx), dy: y.unsort(dy) })
}

/// The debiased Sinkhorn divergence with cost ½ (x - y)², as geomloss 0.2.6 computes it with p = 2: one sweep over temperatures
/// from the squared diameter to blur², each `scaling`² of the one before, and one extrapolation through which the gradient goes.
///
/// # Errors
/// When a set is empty, blur is not from 1e-150 to 1e150, or scaling not above 0 and at most 0.999.
pub fn sinkhorn(x: &[f64], y: &[f64], blur: f64, scaling: f64) -> Result<Transport> {
    check_sinkhorn(blur, scaling)?;
    let (x, y) = (Sorted::new("x", x)?, Sorted::new("y", y)?);
    let (n, m) = (x.values.len(), y.values.len());
    let diameter = x.values[n - 1].max(y.values[m - 1]) - x.values[0].min(y.values[0]);
    // `max` and `min` pass over NaN; and finite samples may still be too far apart for a number.
    if !diameter.is_finite() || !x.values.iter().chain(&y.values).all(|v| v.is_finite()) {
        return Ok(Transport { distance: f64::NAN, dx: vec![f64::NAN; n], dy: vec![f64::NAN; m] });
    }
    if diameter * diameter == 0.0 {
        return Ok(Transport { distance: 0.0, dx: vec![0.0; n], dy: vec![0.0; m] });
    }
    let (x_values, y_values) = (&x.values[..], &y.values[..]);
    let mut potentials = Potentials::zero(n, m).sweep(x_values, y_values, diameter * diameter);
    for temperature in temperatures(diameter, blur, scaling) {
        potentials = potentials.middle(potentials.sweep(x_values, y_values, temperature));
    }
    let last = potentials.sweep(x_values, y_values, blur * blur);
    let (dx, dy) = potentials.gradients(x_values, y_values, blur * blur);
    let distance = mean_difference(&last.x_to_y, &last.x_to_x) + mean_difference(&last.y_to_x, &last.y_to_y);
    Ok(Transport { distance, dx: x.unsort(dx), dy: y.unsort(dy) })
}

/// Samples in ascending order, and where each came from.
struct Sorted {
    values: Vec<f64>,
    from: Vec<usize>,
}

impl Sorted {
    fn new(what: &'static str, samples: &[f64]) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::config(what, "at least one sample", "empty"));
        }
        let mut from: Vec<usize> = (0..samples.len()).collect();
        from.sort_by(|&a, &b| samples[a].total_cmp(&samples[b]));
        Ok(Self { values: from.iter().map(|&i| samples[i]).collect(), from })
    }

    /// Brings what belongs to the sorted samples back into their own order.
    fn unsort(&self, sorted: Vec<f64>) -> Vec<f64> {
        let mut own = vec![0.0; sorted.len()];
        self.from.iter().zip(sorted).for_each(|(&i, value)| own[i] = value);
        own
    }
}

/// geomloss's temperatures: diameter², then from diameter² down to above blur² (with `numpy.arange`'s arithmetic), then blur².
fn temperatures(diameter: f64, blur: f64, scaling: f64) -> impl Iterator<Item = f64> {
    let (start, stop, step) = (2.0 * diameter.ln(), 2.0 * blur.ln(), 2.0 * scaling.ln());
    let count = ((stop - start) / step).ceil() as usize;
    let delta = (start + step) - start;
    let between = (0..count).map(move |i| (start + i as f64 * delta).exp());
    std::iter::once(diameter * diameter).chain(between).chain([blur * blur])
}

/// The dual potentials of transport between the sets, and from each to itself (which takes the entropic bias off).
struct Potentials {
    x_to_y: Vec<f64>,
    y_to_x: Vec<f64>,
    x_to_x: Vec<f64>,
    y_to_y: Vec<f64>,
}

impl Potentials {
    fn zero(n: usize, m: usize) -> Self {
        Self { x_to_y: vec![0.0; n], y_to_x: vec![0.0; m], x_to_x: vec![0.0; n], y_to_y: vec![0.0; m] }
    }

    /// Each potential anew from those of the sweep before.
    fn sweep(&self, x: &[f64], y: &[f64], temperature: f64) -> Self {
        Self {
            x_to_y: softmin(x, y, &self.y_to_x, temperature),
            y_to_x: softmin(y, x, &self.x_to_y, temperature),
            x_to_x: softmin(x, x, &self.x_to_x, temperature),
            y_to_y: softmin(y, y, &self.y_to_y, temperature),
        }
    }

    fn middle(&self, next: Self) -> Self {
        let middle = |a: &[f64], b: Vec<f64>| a.iter().zip(b).map(|(a, b)| 0.5 * (a + b)).collect();
        Self {
            x_to_y: middle(&self.x_to_y, next.x_to_y),
            y_to_x: middle(&self.y_to_x, next.y_to_x),
            x_to_x: middle(&self.x_to_x, next.x_to_x),
            y_to_y: middle(&self.y_to_y, next.y_to_y),
        }
    }

    /// Gradients of the extrapolated distance, the potentials held.
    fn gradients(&self, x: &[f64], y: &[f64], temperature: f64) -> (Vec<f64>, Vec<f64>) {
        let one = |from: &[f64], to: &[f64], there: &[f64], own: &[f64]| {
            let (there, own) = (pull(from, to, there, temperature), pull(from, from, own, temperature));
            there.iter().zip(own).map(|(t, o)| (t - o) / from.len() as f64).collect()
        };
        (one(x, y, &self.y_to_x, &self.x_to_x), one(y, x, &self.x_to_y, &self.y_to_y))
    }
}

/// The exponents of one point's transport plan: potential_j / ε - cost_j / ε, and their largest. The equal weights of the points
/// are left out here.
fn exponents(from: f64, to: &[f64], potential: &[f64], temperature: f64) -> (impl Iterator<Item = f64> + Clone, f64) {
    let exponents = to.iter().zip(potential).map(move |(to, p)| (p - 0.5 * (from - to) * (from - to)) / temperature);
    let largest = exponents.clone().fold(f64::NEG_INFINITY, f64::max);
    (exponents, largest)
}

/// -ε log mean_j exp(potential_j / ε - ½ (from_i - to_j)² / ε) for every i.
fn softmin(from: &[f64], to: &[f64], potential: &[f64], temperature: f64) -> Vec<f64> {
    let one = |&from: &f64| {
        let (exponents, largest) = exponents(from, to, potential, temperature);
        let sum: f64 = exponents.map(|e| (e - largest).exp()).sum();
        -temperature * (largest + (sum / to.len() as f64).ln())
    };
    from.par_iter().with_min_len(POINTS).map(one).collect()
}

/// How far each point is from the mean of where its mass goes.
fn pull(from: &[f64], to: &[f64], potential: &[f64], temperature: f64) -> Vec<f64> {
    let one = |&from: &f64| {
        let (exponents, largest) = exponents(from, to, potential, temperature);
        let add = |(mass, moved), (e, to): (f64, &f64)| {
            let share = (e - largest).exp();
            (mass + share, moved + share * (from - to))
        };
        let (mass, moved) = exponents.zip(to).fold((0.0, 0.0), add);
        moved / mass
    };
    from.par_iter().with_min_len(POINTS).map(one).collect()
}

fn mean_difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a - b).sum::<f64>() / a.len() as f64
}
