//! Measured models beside each other.
//!
//! All figures are taken from the models' predictions. A model that was trained with several seeds has the mean of each figure over its
//! runs. Intervals come from resamples of the test samples ([`Bootstrap`]), and, where there are several runs, of the runs: each
//! resample draws as many runs as there are. Of two models measured on the same samples every resample is the same samples for
//! both, so that their difference has an interval of its own, narrower than theirs suggest.

mod runs;
mod table;

use crate::data::ATTRIBUTES;
use crate::error::{Error, Result};
use crate::metrics::{Bootstrap, Panel};
use rand::RngExt;
use rand_pcg::Pcg64;
use runs::{Model, find};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Models beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How intervals were found.
    pub bootstrap: Bootstrap,
    /// The models; the others are compared with the first.
    pub models: Vec<Compared>,
}

/// One of the models that are compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What tells its folder from the others'.
    pub name: String,
    /// The folders of its runs, one for each seed.
    pub runs: Vec<PathBuf>,
    /// How many samples it was measured on.
    pub samples: usize,
    /// Its figures: by name under `all`, and under each attribute's name.
    pub figures: BTreeMap<String, BTreeMap<String, Figure>>,
    /// How much higher its figures are than the first model's; none for the first itself, and if it was measured on other samples.
    pub difference: Option<BTreeMap<String, BTreeMap<String, Difference>>>,
}

/// A figure of a model; none where it is undefined in one of the runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The mean over its runs.
    pub mean: Option<f64>,
    /// The standard deviation over its runs (n - 1 below the line); none of one run.
    pub sd: Option<f64>,
    /// Where the mean may lie.
    pub interval: Option<[f64; 2]>,
    /// Each run's.
    pub values: Vec<Option<f64>>,
}

/// How much higher a figure is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The difference of the means.
    pub mean: Option<f64>,
    /// Where it may lie.
    pub interval: Option<[f64; 2]>,
}

/// The name of the section of figures that no attribute has.
const ALL: &str = "all";

/// What the AUC of a group is called.
fn auc_of(group: &str) -> String {
    format!("auc of {group}")
}

/// Compares every measured model found under these folders: any folder that holds a `metrics.json` and a `predictions.csv`; folders called
/// `seed-N` in one folder are runs of one model.
///
/// # Errors
/// When a folder holds no measured model, a file cannot be read, or the runs of one model were measured on different samples.
pub fn compare(folders: &[PathBuf], bootstrap: &Bootstrap) -> Result<Comparison> {
    bootstrap.check()?;
    let models = find(folders)?;
    let resampled: Vec<BTreeMap<String, Section>> = models.iter().map(|model| sections(model, bootstrap)).collect();
    let (first, sections_of_first) =
        models.first().zip(resampled.first()).ok_or_else(|| Error::Refused("there is nothing to compare".into()))?;
    let compared = models.iter().zip(&resampled).enumerate().map(|(i, (model, sections))| {
        let figures = |section: &Section| section.iter().map(|(name, column)| (name.clone(), column.figure(bootstrap))).collect();
        let is_paired = i > 0 && model.runs[0].1.same_samples(&first.runs[0].1);
        let difference = |(section, columns): (&String, &Section)| {
            let from = &sections_of_first[section];
            let less = |name: &str, column: &Column| (name.to_owned(), column.less(&from[name], bootstrap));
            (section.clone(), columns.iter().map(|(name, column)| less(name, column)).collect())
        };
        Compared {
            name: model.name.clone(),
            runs: model.runs.iter().map(|(path, _)| path.clone()).collect(),
            samples: model.runs[0].1.label.len(),
            figures: sections.iter().map(|(name, section)| (name.clone(), figures(section))).collect(),
            difference: is_paired.then(|| sections.iter().map(difference).collect()),
        }
    });
    Ok(Comparison { bootstrap: *bootstrap, models: compared.collect() })
}

/// The figures of all samples, or those of an attribute and its groups, by name.
type Section = BTreeMap<String, Column>;

/// One figure of a model.
#[derive(Default)]
struct Column {
    /// Of each run.
    values: Vec<Option<f64>>,
    /// Of each resample, the mean over its runs.
    resampled: Vec<Option<f64>>,
}

impl Column {
    fn figure(&self, bootstrap: &Bootstrap) -> Figure {
        let (mean, sd) = mean_and_sd(&self.values);
        Figure { mean, sd, interval: bootstrap.interval(self.resampled.iter().copied()), values: self.values.clone() }
    }

    fn less(&self, other: &Self, bootstrap: &Bootstrap) -> Difference {
        let less = |(a, b): (Option<f64>, Option<f64>)| Some(a? - b?);
        let pairs = self.resampled.iter().copied().zip(other.resampled.iter().copied());
        Difference {
            mean: less((mean_and_sd(&self.values).0, mean_and_sd(&other.values).0)),
            interval: bootstrap.interval(pairs.map(less)),
        }
    }
}

/// Over several runs the mean and the standard deviation (n - 1); no mean unless all are defined, no deviation of one.
pub(crate) fn mean_and_sd(values: &[Option<f64>]) -> (Option<f64>, Option<f64>) {
    let Some(values) = values.iter().copied().collect::<Option<Vec<f64>>>().filter(|values| !values.is_empty()) else {
        return (None, None);
    };
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (Some(mean), (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

/// Every section of a model's figures.
fn sections(model: &Model, bootstrap: &Bootstrap) -> BTreeMap<String, Section> {
    let attributes: Vec<_> = model.runs.iter().map(|(_, predictions)| predictions.attributes()).collect();
    let panels =
        model.runs.iter().zip(&attributes).map(|((_, predictions), attributes)| Panel::new(predictions.answers(attributes)));
    let panels: Vec<Panel<'_>> = panels.collect();
    let mut found = BTreeMap::from([(
        ALL.to_owned(),
        section(&panels, None, bootstrap, |panel, times| panel.figures(times).map(|(name, value)| (name.into(), value)).to_vec()),
    )]);
    for (a, name) in ATTRIBUTES.iter().enumerate() {
        let of = |panel: &Panel<'_>, times: &[u32]| {
            let found = panel.attribute(a, times);
            let gaps = found.figures().map(|(name, value)| (name.to_owned(), value));
            gaps.into_iter().chain(found.group_auc.into_iter().map(|(group, auc)| (auc_of(&group), auc))).collect()
        };
        found.insert((*name).to_owned(), section(&panels, Some(a), bootstrap, of));
    }
    found
}

/// The figures that `of` gives of each run, and of each resample. Resamples keep each group's size of the attribute, if there is one.
fn section(
    panels: &[Panel<'_>],
    attribute: Option<usize>,
    bootstrap: &Bootstrap,
    of: impl Fn(&Panel<'_>, &[u32]) -> Vec<(String, Option<f64>)> + Sync,
) -> Section {
    let mut section = Section::new();
    let once = panels[0].once();
    for (name, value) in panels.iter().flat_map(|panel| of(panel, &once)) {
        section.entry(name).or_default().values.push(value);
    }
    let resamples = bootstrap.resample(&panels[0].strata(attribute), |times, rng| {
        let drawn = draw(panels.len(), rng);
        let figures: Vec<_> =
            panels.iter().zip(&drawn).map(|(panel, &n)| if n > 0 { of(panel, times) } else { vec![] }).collect();
        let names = figures.iter().find(|f| !f.is_empty()).cloned().unwrap_or_default();
        let mean = |k: usize| {
            let parts = figures.iter().zip(&drawn).filter(|(_, n)| **n > 0).map(|(f, &n)| Some(f[k].1? * f64::from(n)));
            Some(parts.sum::<Option<f64>>()? / panels.len() as f64)
        };
        names.iter().enumerate().map(|(k, (name, _))| (name.clone(), mean(k))).collect::<Vec<_>>()
    });
    for (name, value) in resamples.into_iter().flatten() {
        section.entry(name).or_default().resampled.push(value);
    }
    section
}

/// How many times a resample has each of `runs` runs.
fn draw(runs: usize, rng: &mut Pcg64) -> Vec<u32> {
    let mut drawn = vec![0; runs];
    (0..runs).for_each(|_| drawn[rng.random_range(0..runs)] += 1);
    drawn
}
