//! How sure figures are.

use super::members::quantile;
use super::{AttributeMetrics, Bootstrap, GroupMetrics, Intervals};
use crate::error::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use std::collections::BTreeMap;

impl Bootstrap {
    /// Checks that such intervals can be.
    ///
    /// # Errors
    /// When there are no resamples or too many, or the level is not between 0 and 1.
    pub fn check(&self) -> Result<()> {
        if !(1..=1_000_000).contains(&self.resamples) {
            return Err(Error::config("the number of resamples", "from 1 to 1000000", self.resamples));
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(Error::config("the intervals' level", "between 0 and 1", self.level));
        }
        Ok(())
    }

    /// `figures` of each resample, in order, whatever the number of threads. It is given how many times each sample is there.
    pub(crate) fn resample<T: Send>(&self, strata: &Strata, figures: impl Fn(&[u32], &mut Pcg64) -> T + Sync) -> Vec<T> {
        let one = |r: usize| {
            // Odd multiples keep the streams of neighbouring seeds and resamples apart.
            let mut rng = Pcg64::seed_from_u64(self.seed ^ (r as u64 + 1).wrapping_mul(0x9e3779b97f4a7c15));
            let times = strata.draw(&mut rng);
            figures(&times, &mut rng)
        };
        (0..self.resamples).into_par_iter().map(one).collect()
    }

    /// The interval of a figure that was found so in each resample; none unless it was found in all of them.
    pub(crate) fn interval(&self, figures: impl Iterator<Item = Option<f64>>) -> Option<[f64; 2]> {
        let mut figures = figures.collect::<Option<Vec<f64>>>()?;
        figures.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        Some([quantile(&figures, tail), quantile(&figures, 1.0 - tail)])
    }

    /// The intervals of every figure that `of` names.
    pub(super) fn intervals<T, const N: usize>(
        &self,
        resamples: &[T],
        of: impl Fn(&T) -> [(&'static str, Option<f64>); N],
    ) -> Intervals {
        let all: Vec<_> = resamples.iter().map(of).collect();
        let names = all.first().into_iter().flatten().map(|(name, _)| *name).enumerate();
        let found = names.map(|(k, name)| Some((name.to_owned(), self.interval(all.iter().map(|one| one[k].1))?)));
        found.flatten().collect()
    }

    /// Gives an attribute's figures and those of its groups their intervals.
    pub(super) fn fill(&self, metrics: &mut AttributeMetrics, resamples: &[AttributeMetrics]) {
        metrics.intervals = self.intervals(resamples, AttributeMetrics::figures);
        for (name, group) in &mut metrics.groups {
            let of = |one: &AttributeMetrics| one.groups.get(name).map(GroupMetrics::figures).unwrap_or_default();
            group.intervals = self.intervals(resamples, of);
        }
    }
}

/// Samples that are drawn among each other.
pub(crate) struct Strata(Vec<Vec<u32>>);

impl Strata {
    /// Samples of equal class, and of equal group where groups are told apart.
    pub fn new(label: &[u8], group: impl Fn(usize) -> i8) -> Self {
        let mut strata: BTreeMap<(i8, u8), Vec<u32>> = BTreeMap::new();
        for (i, &label) in label.iter().enumerate() {
            strata.entry((group(i), label)).or_default().push(i as u32);
        }
        Self(strata.into_values().collect())
    }

    /// How many times a resample has each sample.
    fn draw(&self, rng: &mut Pcg64) -> Vec<u32> {
        let mut times = vec![0; self.0.iter().map(Vec::len).sum()];
        for stratum in &self.0 {
            for _ in stratum {
                times[stratum[rng.random_range(0..stratum.len())] as usize] += 1;
            }
        }
        times
    }
}
