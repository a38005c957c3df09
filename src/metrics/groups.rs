//! How the groups of one attribute fare, and how far apart they are.

use super::members::Members;
use super::scores::{GroupMetrics, Scores};
use super::{Attribute, Intervals};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How one attribute's groups fare, and how far apart they are. A figure that compares groups leaves out those that lack it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The largest less the smallest defined group AUC.
    pub auc_gap: Option<f64>,
    /// The group with the smallest AUC, the first of equals; none if no group's is defined.
    pub worst_group: Option<String>,
    /// That group's AUC.
    pub worst_auc: Option<f64>,
    /// Standard deviation (of the groups at hand, not an estimate: n below the line) of the defined group AUCs, divided by AUC.
    pub disparity_std: Option<f64>,
    /// The largest less the smallest defined group AUC, divided by AUC.
    pub disparity_max: Option<f64>,
    /// The largest less the smallest of the groups' calibration errors.
    pub calibration_gap: Option<f64>,
    /// Where the figures above may lie, by their names.
    pub intervals: Intervals,
    /// Each group's figures by its name.
    pub groups: BTreeMap<String, GroupMetrics>,
    /// The groups whose AUC is undefined: the figures above that compare groups leave them out.
    pub undefined: Vec<String>,
    /// The groups with fewer than [`super::SMALL_SAMPLES`] samples or fewer than [`super::SMALL_CLASS`] of a class: what they show
    /// is mostly chance. Of an intersection's small groups only the counts are told.
    pub small: Vec<String>,
    /// How many samples belong to no group.
    pub unknown: usize,
}

impl AttributeMetrics {
    /// Every figure that is a number of its own, by its name.
    pub fn figures(&self) -> [(&'static str, Option<f64>); 10] {
        [
            ("es_auc", self.es_auc),
            ("es_acc", self.es_acc),
            ("dpd", self.dpd),
            ("eod", self.eod),
            ("equal_opportunity", self.equal_opportunity),
            ("auc_gap", self.auc_gap),
            ("worst_auc", self.worst_auc),
            ("disparity_std", self.disparity_std),
            ("disparity_max", self.disparity_max),
            ("calibration_gap", self.calibration_gap),
        ]
    }
}

/// The samples of each of an attribute's groups.
pub(super) struct Partition {
    names: Vec<String>,
    groups: Vec<Members>,
    /// Of the small groups only the counts are told.
    counts_only: bool,
    unknown: usize,
}

impl Partition {
    pub fn new(scores: &Scores<'_>, attribute: &Attribute<'_>, counts_only: bool) -> Self {
        let members = |g: usize| Members::new(scores, |i| usize::try_from(attribute.values[i]) == Ok(g));
        Self {
            names: attribute.groups.iter().map(|name| (*name).to_owned()).collect(),
            groups: (0..attribute.groups.len()).map(members).collect(),
            counts_only,
            unknown: attribute.values.iter().filter(|&&v| v == -1).count(),
        }
    }

    /// How its groups fare if sample i is there `times[i]` times.
    pub fn measure(&self, scores: &Scores<'_>, overall: &GroupMetrics, times: &[u32]) -> AttributeMetrics {
        let mut groups: Vec<GroupMetrics> = self.groups.iter().map(|members| members.measure(scores, times)).collect();
        let named = |is: fn(&GroupMetrics) -> bool, groups: &[GroupMetrics]| {
            self.names.iter().zip(groups).filter(|(_, g)| is(g)).map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let small = named(GroupMetrics::is_small, &groups);
        if self.counts_only {
            groups.iter_mut().filter(|g| g.is_small()).for_each(|g| *g = g.counts());
        }
        let defined = |figure: fn(&GroupMetrics) -> Option<f64>| groups.iter().filter_map(figure).collect::<Vec<f64>>();
        let aucs = defined(|g| g.auc);
        let true_positive_gap = gap(&defined(|g| g.true_positive_rate));
        let false_positive_gap = gap(&defined(|g| g.false_positive_rate));
        let worst_auc = aucs.iter().copied().reduce(f64::min);
        let worst = groups.iter().position(|g| g.auc.is_some() && g.auc == worst_auc);
        let auc_gap = gap(&aucs);
        AttributeMetrics {
            es_auc: equity_scaled(overall.auc, &aucs),
            es_acc: equity_scaled(overall.accuracy, &defined(|g| g.accuracy)),
            dpd: gap(&defined(|g| g.positive_rate)),
            eod: true_positive_gap.zip(false_positive_gap).map(|(t, f)| t.max(f)),
            equal_opportunity: true_positive_gap,
            group_auc: self.names.iter().cloned().zip(groups.iter().map(|g| g.auc)).collect(),
            auc_gap,
            worst_group: worst.map(|g| self.names[g].clone()),
            worst_auc,
            disparity_std: relative(deviation(&aucs), overall.auc),
            disparity_max: relative(auc_gap, overall.auc),
            calibration_gap: gap(&defined(|g| g.calibration_error)),
            intervals: Intervals::new(),
            undefined: named(|g| g.auc.is_none(), &groups),
            small,
            unknown: self.unknown,
            groups: self.names.iter().cloned().zip(groups).collect(),
        }
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
