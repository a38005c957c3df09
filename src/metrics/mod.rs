//! Accuracy and fairness, as published (FairCLIP and Fair-MoE; rates and gaps as fairlearn defines them), and how sure they are.
//!
//! p is the probability of glaucoma, and a sample is called positive where p >= 0.5. What cannot be told stays untold: the AUC
//! of a group without positives or without negatives, the true positive rate of a group without positives, the false positive
//! rate of a group without negatives, and a gap between fewer than two groups are all none (null in JSON), beside the counts
//! that say why. fairlearn would call such a rate 0.

mod audit;
mod bootstrap;
mod curves;
mod groups;
mod members;
mod scores;
mod thresholds;

pub(crate) use audit::Panel;
pub use audit::{Answers, audit};
pub use curves::{CalibrationBin, RocPoint, calibration, roc};
pub use groups::AttributeMetrics;
pub use scores::GroupMetrics;
pub use thresholds::{GroupRates, ThresholdChoice};

use crate::error::{Error, Result};
use groups::Partition;
use members::Members;
use scores::Scores;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where figures may lie: the lower and the upper end of each one's interval, by the figure's name.
pub type Intervals = BTreeMap<String, [f64; 2]>;

/// A group of fewer samples is small.
pub const SMALL_SAMPLES: usize = 20;

/// A group with fewer samples of a class is small.
pub const SMALL_CLASS: usize = 5;

/// One attribute of every sample, such as race.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its groups are called, in the order of their numbers.
    pub groups: &'a [&'a str],
    /// `[samples]` each sample's group, or -1 where it is unknown: such a sample counts in no group of this attribute.
    pub values: &'a [i8],
}

/// How accurate and how fair a model is. Serialised the same bytes for the same input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// How many samples there are.
    pub samples: usize,
    /// How many of them are labelled positive.
    pub positives: usize,
    /// The area under the ROC curve; none without a positive or without a negative.
    pub auc: Option<f64>,
    /// The share of samples that are called what they are.
    pub accuracy: f64,
    /// Expected calibration error: over bins of equal mass, the mean distance of the share of positives from the mean probability.
    pub calibration_error: f64,
    /// Brier score: the mean square of probability less label.
    pub brier: f64,
    /// Where the figures above may lie, by their names.
    pub intervals: Intervals,
    /// How all intervals were found; none where there are none.
    pub bootstrap: Option<Bootstrap>,
    /// What each attribute shows, by its name.
    pub attributes: BTreeMap<String, AttributeMetrics>,
    /// What each pair of attributes shows, such as `race x gender` with groups such as `Asian x Female`.
    pub intersections: BTreeMap<String, AttributeMetrics>,
    /// What thresholds chosen on other samples do to each attribute's groups, by the attribute's and the choice's name.
    pub thresholds: BTreeMap<String, BTreeMap<String, ThresholdChoice>>,
    /// How many samples each split is without because an attribute of theirs is unknown, by the split's name.
    #[serde(default)]
    pub left_out: BTreeMap<String, usize>,
    /// The settings of the model that is measured.
    pub settings: serde_json::Value,
}

/// How intervals are found: each figure is taken of `resamples` resamples, and its interval holds the middle `level` of them.
///
/// The bootstrap is stratified: every resample has as many samples of each class as there are (pROC's way for one ROC curve), and, for
/// figures that compare groups, as many of each class in each group. So no resample lacks a group or a class, a figure that is
/// defined has an interval, and intervals are conditional on who was measured. A sum or a maximum of absolute differences
/// (equity-scaled figures, gaps, calibration errors) lies on average farther from zero in resamples than in truth, so that its
/// interval errs on the unfair side: a gap's never reaches 0, however fair the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How many resamples.
    pub resamples: usize,
    /// The share of them that lies within an interval, such as 0.95.
    pub level: f64,
    /// What decides them.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 1 }
    }
}

/// Measures predictions against labels, overall and by group.
///
/// probability: `[samples]`, from 0 to 1; label: `[samples]`, 0 or 1.
///
/// ```
/// use fair_moe::metrics::{Attribute, evaluate};
/// let gender = Attribute { name: "gender", groups: &["Female", "Male"], values: &[0, 0, 1, 1] };
/// let metrics = evaluate(&[0.1, 0.9, 0.6, 0.4], &[0, 1, 0, 1], &[gender]).unwrap();
/// assert_eq!(metrics.auc, Some(0.75));
/// assert_eq!(metrics.attributes["gender"].group_auc["Male"], Some(0.0));
/// ```
///
/// # Errors
/// When there are no samples, lengths differ, a probability is not a number from 0 to 1, a label is neither 0 nor 1, a group
/// number is out of range, or two attributes, or two groups of one, have the same name.
pub fn evaluate(probability: &[f64], label: &[u8], attributes: &[Attribute<'_>]) -> Result<Metrics> {
    check(probability, label, attributes)?;
    let scores = Scores::new(probability, label, |i| probability[i] >= 0.5);
    let once = vec![1; label.len()];
    let overall = Members::new(&scores, |_| true).measure(&scores, &once);
    let attribute = |a: &Attribute<'_>| (a.name.to_owned(), Partition::new(&scores, a, false).measure(&scores, &overall, &once));
    let none = || Error::Refused("there are no samples to measure".into());
    Ok(Metrics {
        samples: overall.samples,
        positives: overall.positives,
        auc: overall.auc,
        accuracy: overall.accuracy.ok_or_else(none)?,
        calibration_error: overall.calibration_error.ok_or_else(none)?,
        brier: overall.brier.ok_or_else(none)?,
        attributes: attributes.iter().map(attribute).collect(),
        ..Metrics::default()
    })
}

fn check(probability: &[f64], label: &[u8], attributes: &[Attribute<'_>]) -> Result<()> {
    let samples = label.len();
    crate::error::expect_shape("the probabilities", &[samples], probability.len())?;
    let bad = |what, expected: &str, index, got: String| Err(Error::Value { what, expected: expected.into(), index, got });
    if let Some(i) = probability.iter().position(|p| !(0.0..=1.0).contains(p)) {
        return bad("the probabilities", "from 0 to 1", i, probability[i].to_string());
    }
    if let Some(i) = label.iter().position(|&y| y > 1) {
        return bad("the labels", "0 or 1", i, label[i].to_string());
    }
    if let Some(name) = repeated(attributes.iter().map(|a| a.name)) {
        return Err(Error::Refused(format!("two attributes are called {name}")));
    }
    for a in attributes {
        if let Some(name) = repeated(a.groups.iter().copied()) {
            return Err(Error::Refused(format!("two groups of the attribute {} are called {name}", a.name)));
        }
        crate::error::expect_shape(format!("the attribute {}", a.name), &[samples], a.values.len())?;
        let known = |&v: &i8| v == -1 || usize::try_from(v).is_ok_and(|v| v < a.groups.len());
        if let Some(i) = a.values.iter().position(|v| !known(v)) {
            let range = format!("-1, or one of the {} groups of {} counted from 0", a.groups.len(), a.name);
            return bad("the groups", &range, i, a.values[i].to_string());
        }
    }
    Ok(())
}

/// The first name that came before.
fn repeated<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}
