//! The head of the published linear probe, in f64.

use crate::error::{Error, Result, expect_shape};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

/// How a head is fitted; the defaults are what is published.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadConfig {
    /// Passes over the training samples.
    pub epochs: usize,
    /// Samples in a step. What is left over at the end of an epoch is dropped; with fewer samples than this a step has all of them.
    pub batch: usize,
    /// The highest rate for 256 samples in a step; it grows with their number.
    pub base_rate: f64,
    /// Epochs over which the rate rises from 0 in a straight line; it falls to 0 along half a cosine afterwards.
    pub warm_up: usize,
    /// Of LARS.
    pub momentum: f64,
    /// Of LARS: how far a matrix moves, as a share of its own norm.
    pub trust: f64,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self { epochs: 1000, batch: 512, base_rate: 0.1, warm_up: 10, momentum: 0.9, trust: 0.001 }
    }
}

impl HeadConfig {
    /// Checks that such a fit can be.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        for (what, n) in [("the number of epochs", self.epochs), ("the batch", self.batch)] {
            if !(1..=1 << 20).contains(&n) {
                return Err(Error::config(what, "from 1 to 1048576", n));
            }
        }
        for (what, n) in [("the base rate", self.base_rate), ("the momentum", self.momentum), ("the trust", self.trust)] {
            if !(n.is_finite() && n >= 0.0) {
                return Err(Error::config(what, "a number from 0", n));
            }
        }
        Ok(())
    }

    /// The rate after so many epochs and parts of one.
    fn rate(&self, batch: usize, epochs: f64) -> f64 {
        let highest = self.base_rate * batch as f64 / 256.0;
        let warm_up = self.warm_up as f64;
        if epochs < warm_up {
            return highest * epochs / warm_up;
        }
        let done = (epochs - warm_up) / (self.epochs as f64 - warm_up);
        highest * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// Normalises D features by batch (no scale or shift of its own, epsilon 1e-6), maps them to two outputs, and reads the second one:
/// the sigmoid of that is the probability. The first output never gets a gradient, but its weights count in LARS's norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `[2, D]`.
    pub weight: Vec<f64>,
    /// `[2]`.
    pub bias: [f64; 2],
    /// `[D]` running mean of the features.
    pub mean: Vec<f64>,
    /// `[D]` running variance of the features.
    pub variance: Vec<f64>,
    /// Momentum of the second output's weights and bias.
    velocity: Vec<f64>,
    bias_velocity: f64,
}

/// What is added to a variance before its root is taken.
const EPSILON: f64 = 1e-6;

/// How much of a batch's moments the running ones take on.
const PACE: f64 = 0.1;

impl Head {
    /// A fresh head: weights normal with deviation 0.01, biases as PyTorch's.
    pub fn new(width: usize, seed: u64) -> Self {
        let mut rng = Pcg64::seed_from_u64(seed);
        let bound = 1.0 / (width.max(1) as f64).sqrt();
        let bias = [(); 2].map(|()| rng.random_range(-bound..=bound));
        let weight = (0..2 * width).map(|_| 0.01 * crate::model::normal(&mut rng)).collect();
        Self::with(weight, bias)
    }

    /// A head that starts with these weights `[2, D]` and biases.
    pub fn with(weight: Vec<f64>, bias: [f64; 2]) -> Self {
        let width = weight.len() / 2;
        Self { weight, bias, mean: vec![0.0; width], variance: vec![1.0; width], velocity: vec![0.0; width], bias_velocity: 0.0 }
    }

    /// Fits it to features `[N, D]` and labels `[N]` of 0 or 1. `order` gives the samples of an epoch, counted from 0, in the order of
    /// their steps; `each` is shown the head after each epoch.
    ///
    /// # Errors
    /// When shapes disagree, there are no samples, or `each` says so.
    pub fn fit(
        &mut self,
        features: &[f32],
        label: &[u8],
        config: &HeadConfig,
        mut order: impl FnMut(usize) -> Vec<usize>,
        mut each: impl FnMut(usize, &Self) -> Result<()>,
    ) -> Result<()> {
        config.check()?;
        let width = self.mean.len();
        expect_shape("the features", &[label.len(), width], features.len())?;
        if label.is_empty() {
            return Err(Error::Refused("there are no samples to fit to".into()));
        }
        let batch = config.batch.min(label.len());
        let steps = label.len() / batch;
        for epoch in 0..config.epochs {
            let order = order(epoch);
            if let Some(i) = order.iter().find(|&&i| i >= label.len()) {
                return Err(Error::config("a sample in an epoch's order", format!("below their number, {}", label.len()), i));
            }
            for (step, samples) in order.chunks_exact(batch).enumerate() {
                let rate = config.rate(batch, epoch as f64 + step as f64 / steps as f64);
                self.step(features, label, samples, config, rate);
            }
            each(epoch, self)?;
        }
        Ok(())
    }

    fn step(&mut self, features: &[f32], label: &[u8], samples: &[usize], config: &HeadConfig, rate: f64) {
        let width = self.mean.len();
        let n = samples.len() as f64;
        let row = |i: usize| &features[i * width..][..width];
        let sums = |of: &dyn Fn(usize, usize) -> f64| {
            let mut sums = vec![0.0; width];
            samples.iter().for_each(|&i| sums.iter_mut().enumerate().for_each(|(d, sum)| *sum += of(i, d)));
            sums
        };
        let mean: Vec<f64> = sums(&|i, d| f64::from(row(i)[d])).iter().map(|sum| sum / n).collect();
        let squares = sums(&|i, d| (f64::from(row(i)[d]) - mean[d]).powi(2));
        let scale: Vec<f64> = squares.iter().map(|s| 1.0 / (s / n + EPSILON).sqrt()).collect();
        for d in 0..width {
            self.mean[d] += PACE * (mean[d] - self.mean[d]);
            self.variance[d] += PACE * (squares[d] / (n - 1.0).max(1.0) - self.variance[d]);
        }
        let (mut gradient, mut bias_gradient) = (vec![0.0; width], 0.0);
        for &i in samples {
            let error = (self.output(row(i), &mean, &scale) - f64::from(label[i])) / n;
            bias_gradient += error;
            for (d, gradient) in gradient.iter_mut().enumerate() {
                *gradient += error * (f64::from(row(i)[d]) - mean[d]) * scale[d];
            }
        }
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (own, step) = (norm(&self.weight), norm(&gradient));
        let trust = if own > 0.0 && step > 0.0 { config.trust * own / step } else { 1.0 };
        for ((weight, velocity), gradient) in self.weight[width..].iter_mut().zip(&mut self.velocity).zip(&gradient) {
            *velocity = config.momentum * *velocity + trust * gradient;
            *weight -= rate * *velocity;
        }
        self.bias_velocity = config.momentum * self.bias_velocity + bias_gradient;
        self.bias[1] -= rate * self.bias_velocity;
    }

    /// `[N]` probabilities of features `[N, D]`, normalised by the running moments.
    pub fn probabilities(&self, features: &[f32]) -> Vec<f64> {
        let scale: Vec<f64> = self.variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        features.chunks_exact(self.mean.len().max(1)).map(|row| self.output(row, &self.mean, &scale)).collect()
    }

    /// The sigmoid of the second output.
    fn output(&self, row: &[f32], mean: &[f64], scale: &[f64]) -> f64 {
        let weight = &self.weight[self.mean.len()..];
        let terms = row.iter().zip(mean).zip(scale).zip(weight).map(|(((x, m), s), w)| (f64::from(*x) - m) * s * w);
        1.0 / (1.0 + (-self.bias[1] - terms.sum::<f64>()).exp())
    }
}
