//! The figures of a set of samples, of which each may be there several times, as in a resample.

use super::CalibrationBin;
use super::scores::{GroupMetrics, Scores};

/// Bins of a calibration error.
const BINS: usize = 10;

/// A set of samples by ascending probability, and the calibration bin of each.
pub(super) struct Members {
    samples: Vec<u32>,
    bins: Vec<u8>,
}

impl Members {
    /// The samples that `are` in it.
    pub fn new(scores: &Scores<'_>, are: impl Fn(usize) -> bool) -> Self {
        let samples: Vec<u32> = scores.order.iter().copied().filter(|&i| are(i as usize)).collect();
        let sorted: Vec<f64> = samples.iter().map(|&i| scores.probability[i as usize]).collect();
        let edges: Vec<f64> = (1..BINS).map(|b| quantile(&sorted, b as f64 / BINS as f64)).collect();
        let bins = sorted.iter().map(|&p| edges.partition_point(|&edge| edge < p) as u8).collect();
        Self { samples, bins }
    }

    /// Its figures if sample i is there `times[i]` times. Bins stay where they are.
    pub fn measure(&self, scores: &Scores<'_>, times: &[u32]) -> GroupMetrics {
        let mut confusion = [[0u64; 2]; 2];
        let mut bins = [Bin::default(); BINS];
        let (mut wins, mut below, mut square) = (0.0, 0, 0.0);
        let (mut tied, mut last) = ([0u64; 2], f64::NAN);
        for (&i, &bin) in self.samples.iter().zip(&self.bins) {
            let (i, times) = (i as usize, u64::from(times[i as usize]));
            let (p, positive) = (scores.probability[i], scores.label[i] == 1);
            if p != last {
                wins += won(tied, below);
                below += tied[0];
                (tied, last) = ([0; 2], p);
            }
            tied[usize::from(positive)] += times;
            confusion[usize::from(positive)][usize::from(scores.called[i])] += times;
            bins[usize::from(bin)].add(p, positive, times);
            let error = p - f64::from(u8::from(positive));
            square += times as f64 * error * error;
        }
        wins += won(tied, below);
        let [[true_negative, false_positive], [false_negative, true_positive]] = confusion;
        let (positives, negatives) = (false_negative + true_positive, true_negative + false_positive);
        let samples = positives + negatives;
        let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        let mean = |sum: f64| (samples > 0).then(|| sum / samples as f64);
        GroupMetrics {
            samples: samples as usize,
            positives: positives as usize,
            auc: (positives > 0 && negatives > 0).then(|| wins / (positives as f64 * negatives as f64)),
            accuracy: share(true_positive + true_negative, samples),
            positive_rate: share(true_positive + false_positive, samples),
            true_positive_rate: share(true_positive, positives),
            false_positive_rate: share(false_positive, negatives),
            calibration_error: mean(bins.iter().map(Bin::error).sum()),
            brier: mean(square),
            ..GroupMetrics::default()
        }
    }

    /// What its calibration bins hold.
    pub fn calibration(&self, scores: &Scores<'_>) -> Vec<CalibrationBin> {
        let all: Vec<(u32, u8)> = self.samples.iter().copied().zip(self.bins.iter().copied()).collect();
        let bin = |members: &[(u32, u8)]| {
            let mean = |of: &dyn Fn(usize) -> f64| members.iter().map(|m| of(m.0 as usize)).sum::<f64>() / members.len() as f64;
            CalibrationBin {
                samples: members.len(),
                probability: mean(&|i| scores.probability[i]),
                positive: mean(&|i| f64::from(scores.label[i])),
            }
        };
        all.chunk_by(|a, b| a.1 == b.1).map(bin).collect()
    }
}

/// Pairs of a positive among the tied and a negative that has a lower score, or, by half, the same: the Mann-Whitney statistic's,
/// which equals the trapezoidal area under the ROC curve.
fn won([negatives, positives]: [u64; 2], below: u64) -> f64 {
    positives as f64 * (below as f64 + 0.5 * negatives as f64)
}

/// What a calibration bin holds.
#[derive(Clone, Copy, Default)]
struct Bin {
    probability: f64,
    positives: f64,
}

impl Bin {
    fn add(&mut self, probability: f64, positive: bool, times: u64) {
        self.probability += times as f64 * probability;
        self.positives += times as f64 * f64::from(u8::from(positive));
    }

    /// How far the expected number of positives is from the true one.
    fn error(&self) -> f64 {
        (self.probability - self.positives).abs()
    }
}

/// The value below which this share of ascending values lies, in a straight line between neighbours; NaN of nothing.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}
