//! What an epoch showed, and how far training has come.

use super::objective::{ByGroup, GroupTerms, Loss, Terms};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A line of `log.jsonl`: means over an epoch's steps, and the validation split at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// The terms of the loss, each with its weight.
    #[serde(flatten)]
    pub terms: Terms,
    /// AUC on the validation split.
    pub validation_auc: Option<f64>,
    /// ES-AUC on the validation split, by attribute.
    pub validation_es_auc: BTreeMap<String, Option<f64>>,
    /// The figure that chooses the epoch whose model is kept.
    pub selection: Option<f64>,
    /// Each group's figures without any weight, over the steps that had samples of it.
    pub groups: ByGroup<GroupTerms>,
    /// What the loss warned of, such as a group of a single sample, and in how many steps.
    #[serde(default)]
    pub warnings: BTreeMap<String, usize>,
}

/// Sums over the steps of an epoch so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sums {
    pub steps: usize,
    terms: Terms,
    groups: ByGroup<(usize, GroupTerms)>,
    warnings: BTreeMap<String, usize>,
}

impl Sums {
    /// Takes another step.
    pub fn add(&mut self, loss: &Loss) {
        self.steps += 1;
        for (sum, term) in self.terms.each().into_iter().zip(loss.terms.clone().each()) {
            *sum += *term;
        }
        for warning in &loss.warnings {
            *self.warnings.entry(warning.clone()).or_default() += 1;
        }
        for (attribute, groups) in &loss.groups {
            let own = self.groups.entry(attribute.clone()).or_default();
            for (name, found) in groups {
                let (steps, sums) = own.entry(name.clone()).or_default();
                *steps += 1;
                sums.distance += found.distance;
                sums.dispersion += found.dispersion;
            }
        }
    }

    /// The means.
    pub fn epoch(mut self, epoch: usize) -> Epoch {
        let steps = self.steps.max(1) as f64;
        self.terms.each().into_iter().for_each(|sum| *sum /= steps);
        let mean = |(name, (steps, sums)): (String, (usize, GroupTerms))| {
            let steps = steps as f64;
            (name, GroupTerms { distance: sums.distance / steps, dispersion: sums.dispersion / steps })
        };
        let groups = self.groups.into_iter().map(|(attribute, own)| (attribute, own.into_iter().map(mean).collect()));
        Epoch { epoch, terms: self.terms, groups: groups.collect(), warnings: self.warnings, ..Epoch::default() }
    }
}

impl Terms {
    /// Every number of it.
    fn each(&mut self) -> [&mut f64; 6] {
        let Self { total, clip, distance, dispersion, batch_variance, gate_ce } = self;
        [total, clip, distance, dispersion, batch_variance, gate_ce]
    }
}

/// How far training has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// The epochs that are done.
    pub log: Vec<Epoch>,
    /// Steps of all epochs.
    pub steps: u64,
    /// Those of the epoch that runs.
    pub running: Sums,
    /// A hash of what its data say.
    pub data: String,
}

impl State {
    /// The largest figure of selection so far.
    pub fn best(&self) -> Option<f64> {
        self.log.iter().filter_map(|epoch| epoch.selection).reduce(f64::max)
    }
}
