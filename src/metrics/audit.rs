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

/// Samples made ready to be measured again and again.
pub(crate) struct Panel<'a> {
    answers: Answers<'a>,
    scores: Scores<'a>,
    everyone: Members,
    partitions: Vec<Partition>,
}

impl<'a> Panel<'a> {
    /// The answers must have been checked.
    pub fn new(answers: Answers<'a>) -> Self {
        let scores = Scores::new(answers.probability, answers.label, |i| answers.probability[i] >= 0.5);
        let everyone = Members::new(&scores, |_| true);
        let partitions = answers.attributes.iter().map(|a| Partition::new(&scores, a, false)).collect();
        Self { answers, scores, everyone, partitions }
    }

    /// How many times each sample is there: once.
    pub fn once(&self) -> Vec<u32> {
        vec![1; self.answers.label.len()]
    }

    /// The figures of all by their names, if sample i is there `times[i]` times.
    pub fn figures(&self, times: &[u32]) -> [(&'static str, Option<f64>); 4] {
        let all = self.everyone.measure(&self.scores, times);
        [("auc", all.auc), ("accuracy", all.accuracy), ("calibration_error", all.calibration_error), ("brier", all.brier)]
    }

    /// Those of the attribute at `place`.
    pub fn attribute(&self, place: usize, times: &[u32]) -> AttributeMetrics {
        self.of(&self.partitions[place], times)
    }

    fn of(&self, partition: &Partition, times: &[u32]) -> AttributeMetrics {
        partition.measure(&self.scores, &self.everyone.measure(&self.scores, times), times)
    }

    /// What resamples keep: the size of each class, and, with the place of an attribute, that in each of its groups.
    pub fn strata(&self, place: Option<usize>) -> Strata {
        Strata::new(self.answers.label, |i| place.map_or(0, |place| self.answers.attributes[place].values[i]))
    }
}

/// [`evaluate`], and beside it intervals, intersections, and thresholds chosen on `validation`.
///
/// # Errors
/// As [`evaluate`], for either samples; and when the bootstrap is out of range, or the attributes of `validation` are others.
pub fn audit(test: &Answers<'_>, validation: Option<&Answers<'_>>, bootstrap: &Bootstrap) -> Result<Metrics> {
    bootstrap.check()?;
    let mut metrics = evaluate(test.probability, test.label, test.attributes)?;
    metrics.bootstrap = Some(*bootstrap);
    let panel = Panel::new(*test);
    let resamples = bootstrap.resample(&panel.strata(None), |times, _| panel.figures(times));
    metrics.intervals = bootstrap.intervals(&resamples, |figures| *figures);

    for (place, a) in test.attributes.iter().enumerate() {
        let resamples = bootstrap.resample(&panel.strata(Some(place)), |times, _| panel.attribute(place, times));
        metrics.attributes.get_mut(a.name).into_iter().for_each(|found| bootstrap.fill(found, &resamples));
        for b in &test.attributes[place + 1..] {
            let (name, found) = intersection(a, b, |pair| {
                let partition = Partition::new(&panel.scores, pair, true);
                let mut found = panel.of(&partition, &panel.once());
                let strata = Strata::new(test.label, |i| pair.values[i]);
                bootstrap.fill(&mut found, &bootstrap.resample(&strata, |times, _| panel.of(&partition, times)));
                found
            })?;
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
