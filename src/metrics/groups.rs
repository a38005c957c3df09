//! What a set of samples shows, and how the groups of one attribute differ.

use super::Attribute;
use super::auc::auc;
use serde::Serialize;
use std::collections::BTreeMap;

/// How one attribute's groups fare, and how far apart they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttributeMetrics {
    /// AUC / (1 + Σ over groups of |AUC of the group - AUC|), over the groups whose AUC is defined; none if none is.
    pub es_auc: Option<f64>,
    /// The same of accuracy, over the groups that have samples.
    pub es_acc: Option<f64>,
    /// Demographic parity difference: the largest less the smallest share of samples called positive. None below two groups.
    pub dpd: Option<f64>,
    /// Equalised odds difference: the larger of the gaps in true and in false positive rates, each over the groups that have it.
    /// None where either gap is.
    pub eod: Option<f64>,
    /// The gap in true positive rates alone; none below two groups that have positives.
    pub equal_opportunity: Option<f64>,
    /// Each group's AUC by its name; none without positives or without negatives.
    pub group_auc: BTreeMap<String, Option<f64>>,
    /// Standard deviation (of the groups at hand, not an estimate: n below the line) of the defined group AUCs, divided by AUC.
    pub disparity_std: Option<f64>,
    /// The largest less the smallest defined group AUC, divided by AUC.
    pub disparity_max: Option<f64>,
    /// Each group's figures by its name.
    pub groups: BTreeMap<String, GroupMetrics>,
    /// The groups whose AUC is undefined: the figures above that compare groups leave them out.
    pub undefined: Vec<String>,
    /// How many samples belong to no group.
    pub unknown: usize,
}

/// The figures of one group; a rate over nobody is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
}

/// What a model said, and what is true; all of one length.
pub(super) struct Predictions<'a> {
    pub(super) probability: &'a [f64],
    pub(super) called: &'a [bool],
    pub(super) label: &'a [u8],
}

impl Predictions<'_> {
    /// The figures of the samples at these places.
    pub(super) fn of(&self, samples: impl Iterator<Item = usize>) -> GroupMetrics {
        let (mut scored, mut confusion) = (vec![], [[0usize; 2]; 2]);
        for i in samples {
            let positive = self.label[i] == 1;
            scored.push((self.probability[i], positive));
            confusion[usize::from(positive)][usize::from(self.called[i])] += 1;
        }
        let [[true_negative, false_positive], [false_negative, true_positive]] = confusion;
        let (positives, negatives) = (false_negative + true_positive, true_negative + false_positive);
        let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        GroupMetrics {
            samples: scored.len(),
            positives,
            auc: auc(&mut scored),
            accuracy: share(true_positive + true_negative, scored.len()),
            positive_rate: share(true_positive + false_positive, scored.len()),
            true_positive_rate: share(true_positive, positives),
            false_positive_rate: share(false_positive, negatives),
        }
    }
}

/// How the groups of one attribute fare.
pub(super) fn attribute(predictions: &Predictions<'_>, overall: &GroupMetrics, a: &Attribute<'_>) -> AttributeMetrics {
    let members = |g: usize| (0..a.values.len()).filter(move |&i| usize::try_from(a.values[i]) == Ok(g));
    let groups: Vec<GroupMetrics> = (0..a.groups.len()).map(|g| predictions.of(members(g))).collect();
    let defined = |figure: fn(&GroupMetrics) -> Option<f64>| groups.iter().filter_map(figure).collect::<Vec<f64>>();
    let aucs = defined(|g| g.auc);
    let true_positive_gap = gap(&defined(|g| g.true_positive_rate));
    let false_positive_gap = gap(&defined(|g| g.false_positive_rate));
    let named = |g: usize| a.groups[g].to_owned();
    AttributeMetrics {
        es_auc: equity_scaled(overall.auc, &aucs),
        es_acc: equity_scaled(overall.accuracy, &defined(|g| g.accuracy)),
        dpd: gap(&defined(|g| g.positive_rate)),
        eod: true_positive_gap.zip(false_positive_gap).map(|(t, f)| t.max(f)),
        equal_opportunity: true_positive_gap,
        group_auc: groups.iter().enumerate().map(|(g, m)| (named(g), m.auc)).collect(),
        disparity_std: relative(deviation(&aucs), overall.auc),
        disparity_max: relative(gap(&aucs), overall.auc),
        undefined: groups.iter().enumerate().filter(|(_, m)| m.auc.is_none()).map(|(g, _)| named(g)).collect(),
        unknown: a.values.iter().filter(|&&v| v == -1).count(),
        groups: groups.into_iter().enumerate().map(|(g, m)| (named(g), m)).collect(),
    }
}

/// figure / (1 + Σ |a group's figure - figure|).
fn equity_scaled(figure: Option<f64>, groups: &[f64]) -> Option<f64> {
    let figure = figure.filter(|_| !groups.is_empty())?;
    Some(figure / (1.0 + groups.iter().map(|g| (g - figure).abs()).sum::<f64>()))
}

/// The largest less the smallest; a gap needs two.
fn gap(figures: &[f64]) -> Option<f64> {
    let largest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    (figures.len() >= 2).then_some(largest - smallest)
}

/// The standard deviation of these figures themselves; it too needs two.
fn deviation(figures: &[f64]) -> Option<f64> {
    let n = figures.len() as f64;
    let mean = figures.iter().sum::<f64>() / n;
    let variance = figures.iter().map(|f| (f - mean) * (f - mean)).sum::<f64>() / n;
    (figures.len() >= 2).then(|| variance.sqrt())
}

/// A spread as a share of the whole's figure.
fn relative(spread: Option<f64>, whole: Option<f64>) -> Option<f64> {
    spread.zip(whole.filter(|w| *w > 0.0)).map(|(s, w)| s / w)
}
