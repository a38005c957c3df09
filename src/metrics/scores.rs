//! What a model said and what is true, and the figures of a set of samples.

use super::{Intervals, SMALL_CLASS, SMALL_SAMPLES};
use serde::{Deserialize, Serialize};

/// The figures of one set of samples, such as a group; a figure that nothing defines is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupMetrics {
    /// How many samples it has.
    pub samples: usize,
    /// How many of them are labelled positive.
    pub positives: usize,
    /// The area under its ROC curve.
    pub auc: Option<f64>,
    /// The share called what they are.
    pub accuracy: Option<f64>,
    /// The share called positive.
    pub positive_rate: Option<f64>,
    /// The share of its positives that are called positive.
    pub true_positive_rate: Option<f64>,
    /// The share of its negatives that are called positive.
    pub false_positive_rate: Option<f64>,
    /// Expected calibration error: over bins of equal mass, the mean distance of the share of positives from the mean probability.
    pub calibration_error: Option<f64>,
    /// Brier score: the mean square of probability less label.
    pub brier: Option<f64>,
    /// Where the figures above may lie, by their names.
    pub intervals: Intervals,
}

impl GroupMetrics {
    /// Every figure, by its name.
    pub fn figures(&self) -> [(&'static str, Option<f64>); 7] {
        [
            ("auc", self.auc),
            ("accuracy", self.accuracy),
            ("positive_rate", self.positive_rate),
            ("true_positive_rate", self.true_positive_rate),
            ("false_positive_rate", self.false_positive_rate),
            ("calibration_error", self.calibration_error),
            ("brier", self.brier),
        ]
    }

    /// Whether what it shows is mostly chance.
    pub(super) fn is_small(&self) -> bool {
        let rarer = self.positives.min(self.samples - self.positives);
        self.samples < SMALL_SAMPLES || rarer < SMALL_CLASS
    }

    /// How many there are, and nothing else.
    pub(super) fn counts(&self) -> Self {
        Self { samples: self.samples, positives: self.positives, ..Self::default() }
    }
}

/// What a model said, and what is true; all of one length.
pub(super) struct Scores<'a> {
    pub probability: &'a [f64],
    pub label: &'a [u8],
    /// Whether a sample is called positive.
    pub called: Vec<bool>,
    /// All samples, by ascending probability.
    pub order: Vec<u32>,
}

impl<'a> Scores<'a> {
    /// Called positive where `called` says so.
    pub fn new(probability: &'a [f64], label: &'a [u8], called: impl Fn(usize) -> bool) -> Self {
        let mut order: Vec<u32> = (0..label.len() as u32).collect();
        order.sort_by(|&a, &b| probability[a as usize].total_cmp(&probability[b as usize]));
        Self { probability, label, called: (0..label.len()).map(called).collect(), order }
    }
}
