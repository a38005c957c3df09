//! Thresholds other than one half, and what they do.

use super::groups::Partition;
use super::members::Members;
use super::scores::{GroupMetrics, Scores};
use super::{Answers, Attribute};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Thresholds that were chosen on other samples (validation), and what they do on these (test). A sample is called positive where
/// its probability is at least the threshold of its group.
///
/// | name | thresholds |
/// |---|---|
/// | `published` | 0.5 for all |
/// | `youden` | one for all: the largest true less false positive rate on validation |
/// | `equal_opportunity` | each group's own: its true positive rate on validation nearest to that of all with `youden` |
/// | `demographic_parity` | each group's own: its share called positive on validation nearest to that of all with `youden` |
///
/// Thresholds lie halfway between neighbouring probabilities; of equally good ones the highest counts. Those of a group are fair
/// only as far as its validation samples go, and knowing a patient's group is their price.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThresholdChoice {
    /// The threshold of samples in no group.
    pub threshold: f64,
    /// Each group's threshold by its name.
    pub groups: BTreeMap<String, f64>,
    /// The groups that were too small on validation to choose for: they have `threshold`.
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

/// Every choice by its name; only `published` where validation lacks a class.
pub(super) fn choose(
    validation: &Answers<'_>,
    chosen_by: &Attribute<'_>,
    test: &Answers<'_>,
    measured_by: &Attribute<'_>,
) -> BTreeMap<String, ThresholdChoice> {
    let all = Ranked::new(validation, |_| true);
    let is_in = |g: usize| move |i: usize| usize::try_from(chosen_by.values[i]) == Ok(g);
    let groups: Vec<Ranked> = (0..chosen_by.groups.len()).map(|g| Ranked::new(validation, is_in(g))).collect();
    let alike = |threshold: f64| apply(test, measured_by, threshold, &vec![Some(threshold); groups.len()]);
    let mut choices = BTreeMap::from([("published".to_owned(), alike(0.5))]);
    if let Some(youden) = all.youden() {
        choices.insert("youden".into(), alike(youden));
        let mut own = |name: &str, rate: fn(&Ranked, f64) -> f64| {
            let level = rate(&all, youden);
            let thresholds: Vec<_> = groups.iter().map(|g| g.nearest(level, rate)).collect();
            choices.insert(name.into(), apply(test, measured_by, youden, &thresholds));
        };
        own("equal_opportunity", Ranked::true_positive_rate);
        own("demographic_parity", Ranked::positive_rate);
    }
    choices
}

/// What these thresholds do; a group without one has that of samples in no group.
fn apply(test: &Answers<'_>, attribute: &Attribute<'_>, threshold: f64, own: &[Option<f64>]) -> ThresholdChoice {
    let of = |i: usize| usize::try_from(attribute.values[i]).ok().and_then(|g| own[g]).unwrap_or(threshold);
    let scores = Scores::new(test.probability, test.label, |i| test.probability[i] >= of(i));
    let once = vec![1; test.label.len()];
    let overall = Members::new(&scores, |_| true).measure(&scores, &once);
    let found = Partition::new(&scores, attribute, false).measure(&scores, &overall, &once);
    let rates = |g: GroupMetrics| GroupRates {
        accuracy: g.accuracy,
        positive_rate: g.positive_rate,
        true_positive_rate: g.true_positive_rate,
        false_positive_rate: g.false_positive_rate,
    };
    let named = || attribute.groups.iter().map(|name| (*name).to_owned()).zip(own);
    ThresholdChoice {
        threshold,
        groups: named().map(|(name, own)| (name, own.unwrap_or(threshold))).collect(),
        small: named().filter(|(_, own)| own.is_none()).map(|(name, _)| name).collect(),
        accuracy: overall.accuracy.unwrap_or_default(),
        dpd: found.dpd,
        eod: found.eod,
        equal_opportunity: found.equal_opportunity,
        rates: found.groups.into_iter().map(|(name, g)| (name, rates(g))).collect(),
    }
}

/// Probabilities of positives and of negatives, each ascending.
struct Ranked {
    positives: Vec<f64>,
    negatives: Vec<f64>,
}

impl Ranked {
    fn new(answers: &Answers<'_>, are: impl Fn(usize) -> bool) -> Self {
        let of = |class: u8| {
            let mine = (0..answers.label.len()).filter(|&i| answers.label[i] == class && are(i));
            let mut found: Vec<f64> = mine.map(|i| answers.probability[i]).collect();
            found.sort_unstable_by(f64::total_cmp);
            found
        };
        Self { positives: of(1), negatives: of(0) }
    }

    fn true_positive_rate(&self, threshold: f64) -> f64 {
        at_least(&self.positives, threshold) as f64 / self.positives.len() as f64
    }

    fn positive_rate(&self, threshold: f64) -> f64 {
        let called = at_least(&self.positives, threshold) + at_least(&self.negatives, threshold);
        called as f64 / (self.positives.len() + self.negatives.len()) as f64
    }

    /// Every threshold that calls others positive than the next, descending.
    fn candidates(&self) -> Vec<f64> {
        let mut all = [&self.positives[..], &self.negatives[..], &[0.0, 1.0]].concat();
        all.sort_unstable_by(|a, b| b.total_cmp(a));
        all.dedup();
        all.windows(2).map(|pair| pair[0].midpoint(pair[1])).chain([0.0]).collect()
    }

    /// The threshold with the largest true less false positive rate.
    fn youden(&self) -> Option<f64> {
        let (positives, negatives) = (self.positives.len() as i64, self.negatives.len() as i64);
        // In whole numbers, so that equals are equal.
        let gain = |t: f64| at_least(&self.positives, t) as i64 * negatives - at_least(&self.negatives, t) as i64 * positives;
        let best = self.candidates().into_iter().rev().max_by_key(|&t| gain(t));
        best.filter(|_| positives > 0 && negatives > 0)
    }

    /// The threshold at which this rate is nearest to `level`; none in a small group.
    fn nearest(&self, level: f64, rate: fn(&Self, f64) -> f64) -> Option<f64> {
        let counts = GroupMetrics {
            samples: self.positives.len() + self.negatives.len(),
            positives: self.positives.len(),
            ..GroupMetrics::default()
        };
        let far = |t: f64| (rate(self, t) - level).abs();
        let nearer = |a: f64, b: f64| if far(b) < far(a) { b } else { a };
        self.candidates().into_iter().reduce(nearer).filter(|_| !counts.is_small())
    }
}

/// How many of these ascending probabilities reach the threshold.
fn at_least(ascending: &[f64], threshold: f64) -> usize {
    ascending.len() - ascending.partition_point(|&p| p < threshold)
}
