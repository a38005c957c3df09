//! Everything that a model's predictions show.

use super::bootstrap::Strata;
use super::groups::Partition;
use super::members::Members;
use super::scores::Scores;
use super::{Attribute, AttributeMetrics, Bootstrap, Metrics, check, evaluate, thresholds};
use crate::error::{Error, Result};

/// What a model said of samples, and what is true of them.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    /// `[samples]` from 0 to 1.
    pub probability: &'a [f64],
    /// `[samples]` 0 or 1.
    pub label: &'a [u8],
    /// Who they are.
    pub attributes: &'a [Attribute<'a>],
}

/// [`evaluate`], and beside it intervals, intersections, and thresholds chosen on `validation`.
///
/// # Errors
/// As [`evaluate`], for either samples; and when the bootstrap is out of range, or the attributes of `validation` are others.
pub fn audit(test: &Answers<'_>, validation: Option<&Answers<'_>>, bootstrap: &Bootstrap) -> Result<Metrics> {
    bootstrap.check()?;
    let mut metrics = evaluate(test.probability, test.label, test.attributes)?;
    let scores = Scores::new(test.probability, test.label, |i| test.probability[i] >= 0.5);
    let everyone = Members::new(&scores, |_| true);
    let strata = Strata::new(test.label, |_| 0);
    let resamples = bootstrap.resample(&strata, |times, _| everyone.measure(&scores, times));
    let figures = bootstrap.intervals(&resamples, |one| one.figures());
    let told = ["auc", "accuracy", "calibration_error", "brier"];
    metrics.intervals = figures.into_iter().filter(|(name, _)| told.contains(&name.as_str())).collect();
    metrics.bootstrap = Some(*bootstrap);

    let measure = |attribute: &Attribute<'_>, counts_only: bool| {
        let partition = Partition::new(&scores, attribute, counts_only);
        let of = |times: &[u32]| partition.measure(&scores, &everyone.measure(&scores, times), times);
        let mut found = of(&vec![1; test.label.len()]);
        let strata = Strata::new(test.label, |i| attribute.values[i]);
        bootstrap.fill(&mut found, &bootstrap.resample(&strata, |times, _| of(times)));
        found
    };
    for a in test.attributes {
        metrics.attributes.insert(a.name.to_owned(), measure(a, false));
    }
    for (i, a) in test.attributes.iter().enumerate() {
        for b in &test.attributes[i + 1..] {
            let (name, found) = intersection(a, b, |pair| measure(pair, true))?;
            metrics.intersections.insert(name, found);
        }
    }
    if let Some(validation) = validation {
        check(validation.probability, validation.label, validation.attributes)?;
        for a in test.attributes {
            let same = validation.attributes.iter().find(|v| v.name == a.name && v.groups == a.groups);
            let same =
                same.ok_or_else(|| Error::Refused(format!("the validation samples have no such attribute as {}", a.name)))?;
            metrics.thresholds.insert(a.name.to_owned(), thresholds::choose(validation, same, test, a));
        }
    }
    Ok(metrics)
}

/// Each pair of groups of two attributes as a group, `race x gender` with groups such as `Asian x Female`, and what it shows.
fn intersection(
    a: &Attribute<'_>,
    b: &Attribute<'_>,
    measure: impl Fn(&Attribute<'_>) -> AttributeMetrics,
) -> Result<(String, AttributeMetrics)> {
    let name = format!("{} x {}", a.name, b.name);
    let names: Vec<String> = a.groups.iter().flat_map(|x| b.groups.iter().map(move |y| format!("{x} x {y}"))).collect();
    if names.len() > i8::MAX as usize {
        return Err(Error::Refused(format!("{name} has {} groups, of which at most {} can be told apart", names.len(), i8::MAX)));
    }
    let both = |(&x, &y): (&i8, &i8)| if x < 0 || y < 0 { -1 } else { x * b.groups.len() as i8 + y };
    let values: Vec<i8> = a.values.iter().zip(b.values).map(both).collect();
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = measure(&Attribute { name: &name, groups: &groups, values: &values });
    Ok((name, found))
}
