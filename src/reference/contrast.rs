//! The CLIP cross entropy and the correlations of logits L `[B, B]`.

use crate::error::{Result, expect_shape};

/// ½ [CE(L, i) + CE(Lᵀ, i)], means over the B samples, and its gradient on L.
///
/// # Errors
/// When L has another shape.
pub fn clip(logits: &[f64], samples: usize) -> Result<(f64, Vec<f64>)> {
    let b = samples;
    expect_shape("the logits", &[b, b], logits.len())?;
    let (mut loss, mut dlogits) = (0.0, vec![0.0; b * b]);
    for i in 0..b {
        let row: Vec<f64> = (0..b).map(|j| logits[i * b + j]).collect();
        let column: Vec<f64> = (0..b).map(|j| logits[j * b + i]).collect();
        for (j, (p, q)) in softmax(&row).into_iter().zip(softmax(&column)).enumerate() {
            if i == j {
                loss -= 0.5 * (p.ln() + q.ln()) / b as f64;
            }
            let own = if i == j { 1.0 } else { 0.0 };
            dlogits[i * b + j] += 0.5 * (p - own) / b as f64;
            dlogits[j * b + i] += 0.5 * (q - own) / b as f64;
        }
    }
    Ok((loss, dlogits))
}

/// The diagonal of L·L: c_i = Σ_j L_ij L_ji.
///
/// # Errors
/// When L has another shape.
pub fn diagonal_of_square(logits: &[f64], samples: usize) -> Result<Vec<f64>> {
    let b = samples;
    expect_shape("the logits", &[b, b], logits.len())?;
    Ok((0..b).map(|i| (0..b).map(|j| logits[i * b + j] * logits[j * b + i]).sum()).collect())
}

/// Its gradient on L from `d` `[B]`: (d_i + d_j) L_ji.
///
/// # Errors
/// When a shape disagrees.
pub fn diagonal_of_square_backward(logits: &[f64], samples: usize, d: &[f64]) -> Result<Vec<f64>> {
    let b = samples;
    expect_shape("the logits", &[b, b], logits.len())?;
    expect_shape("the correlation's gradient", &[b], d.len())?;
    Ok((0..b * b).map(|at| (at / b, at % b)).map(|(i, j)| (d[i] + d[j]) * logits[j * b + i]).collect())
}

fn softmax(values: &[f64]) -> Vec<f64> {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = values.iter().map(|v| (v - largest).exp()).sum();
    values.iter().map(|v| (v - largest).exp() / sum).collect()
}
