//! Correlations as transport compares them, and the way of a gradient back to them as they were.

use super::Normalise;

/// One side's correlations, scaled.
pub(super) struct Scaled {
    pub values: Vec<f64>,
    by: By,
}

/// What they were scaled by.
enum By {
    Nothing,
    Sum(f64),
    Deviation(f64),
}

impl Normalise {
    /// The batch's correlations.
    pub(super) fn batch(self, correlation: &[f64]) -> Scaled {
        match self {
            Normalise::None | Normalise::GroupSum => Scaled::unchanged(correlation),
            Normalise::BothSum => Scaled::by_sum(correlation),
            Normalise::ZScore => Scaled::by_deviation(correlation),
        }
    }

    /// A group's correlations.
    pub(super) fn group(self, correlation: &[f64]) -> Scaled {
        match self {
            Normalise::None => Scaled::unchanged(correlation),
            Normalise::GroupSum | Normalise::BothSum => Scaled::by_sum(correlation),
            Normalise::ZScore => Scaled::by_deviation(correlation),
        }
    }
}

impl Scaled {
    fn unchanged(values: &[f64]) -> Self {
        Self { values: values.to_vec(), by: By::Nothing }
    }

    fn by_sum(values: &[f64]) -> Self {
        let sum: f64 = values.iter().sum();
        Self { values: values.iter().map(|v| v / sum).collect(), by: By::Sum(sum) }
    }

    /// z = (c - mean) / s with s² = Σ (c - mean)² / (n - 1). Where all are equal, or there is but one, every z is 0.
    fn by_deviation(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let square: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        let deviation = (square / (n - 1.0)).sqrt();
        if values.iter().all(|v| *v == values[0]) {
            return Self { values: vec![0.0; values.len()], by: By::Deviation(f64::INFINITY) };
        }
        Self { values: values.iter().map(|v| (v - mean) / deviation).collect(), by: By::Deviation(deviation) }
    }

    /// The gradient on the correlations, from that on the scaled ones.
    pub(super) fn backward(&self, d: &[f64]) -> Vec<f64> {
        let along = || d.iter().zip(&self.values).map(|(d, v)| d * v).sum::<f64>();
        match self.by {
            By::Nothing => d.to_vec(),
            // Of c / Σc: what all of them lose when one grows.
            By::Sum(sum) => {
                let common = along();
                d.iter().map(|d| (d - common) / sum).collect()
            }
            By::Deviation(deviation) => {
                let (n, mean) = (d.len() as f64, d.iter().sum::<f64>() / d.len() as f64);
                let common = if deviation.is_infinite() { 0.0 } else { along() / (n - 1.0) };
                d.iter().zip(&self.values).map(|(d, z)| (d - mean - z * common) / deviation).collect()
            }
        }
    }
}
