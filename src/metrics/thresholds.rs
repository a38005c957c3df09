//! Thresholds other than one half, and what they do.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Thresholds that were chosen on other samples (validation), and what they do on these (test). A sample is called positive where
/// its probability is at least the threshold of its group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThresholdChoice {
    /// The threshold of samples in no group.
    pub threshold: f64,
    /// Each group's threshold by its name.
    pub groups: BTreeMap<String, f64>,
    /// The groups that were too small to choose for: they have `threshold`.
    pub small: Vec<String>,
    /// The share called what they are.
    pub accuracy: f64,
    /// As [`super::AttributeMetrics::dpd`].
    pub dpd: Option<f64>,
    /// As [`super::AttributeMetrics::eod`].
    pub eod: Option<f64>,
    /// As [`super::AttributeMetrics::equal_opportunity`].
    pub equal_opportunity: Option<f64>,
    /// What each group gets, by its name.
    pub rates: BTreeMap<String, GroupRates>,
}

/// What a threshold does to one group; a rate over nobody is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupRates {
    /// The share called what they are.
    pub accuracy: Option<f64>,
    /// The share called positive.
    pub positive_rate: Option<f64>,
    /// The share of its positives that are called positive.
    pub true_positive_rate: Option<f64>,
    /// The share of its negatives that are called positive.
    pub false_positive_rate: Option<f64>,
}
