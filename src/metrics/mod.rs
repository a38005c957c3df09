//! Accuracy and fairness, as published (FairCLIP and Fair-MoE; rates and gaps as fairlearn defines them).
//!
//! p is the probability of glaucoma, and a sample is called positive where p >= 0.5. What cannot be told stays untold: the AUC
//! of a group without positives or without negatives, the true positive rate of a group without positives, the false positive
//! rate of a group without negatives, and a gap between fewer than two groups are all none (null in JSON), beside the counts
//! that say why. fairlearn would call such a rate 0.

mod auc;
mod groups;

pub use groups::{AttributeMetrics, GroupMetrics};

use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// How many samples there are.
    pub samples: usize,
    /// How many of them are labelled positive.
    pub positives: usize,
    /// The area under the ROC curve; none without a positive or without a negative.
    pub auc: Option<f64>,
    /// The share of samples that are called what they are.
    pub accuracy: f64,
    /// What each attribute shows, by its name.
    pub attributes: BTreeMap<String, AttributeMetrics>,
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
    let called: Vec<bool> = probability.iter().map(|&p| p >= 0.5).collect();
    let predictions = groups::Predictions { probability, called: &called, label };
    let overall = predictions.of(0..label.len());
    let attribute = |a: &Attribute<'_>| (a.name.to_owned(), groups::attribute(&predictions, &overall, a));
    Ok(Metrics {
        samples: overall.samples,
        positives: overall.positives,
        auc: overall.auc,
        accuracy: overall.accuracy.ok_or_else(|| Error::Refused("there are no samples to measure".into()))?,
        attributes: attributes.iter().map(attribute).collect(),
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
