//! How far apart the variances of the experts' weights are, of the batch and of its groups.

use super::state::GateMoments;
use super::{Dispersion, Fol, FolBatch, FolState, Groups, weighted};
use crate::cpu::{moments, moments::Moments};
use crate::dtype::Float;
use crate::error::Result;

impl Dispersion {
    /// How far a group's variances are from a batch's, over all gates; `[gates][E]` each.
    pub fn between(self, batch: &[Vec<f64>], group: &[Vec<f64>]) -> f64 {
        batch.iter().zip(group).map(|(batch, group)| compare(self, batch, group).0).sum()
    }
}

impl Fol {
    /// Every gate's moments, the two terms that they make, and the loss's gradient on their variances.
    pub(super) fn dispersions<W: Float>(
        &self,
        batch: &FolBatch<'_, W>,
        groups: &Groups<'_, W>,
        state: &mut FolState,
    ) -> Result<()> {
        for (i, gate) in batch.gates.iter().enumerate() {
            let whole = moments::forward(gate.weights, gate.experts, &gate.rows_counted(), 1)?;
            let mut all = group_moments(batch, groups, i)?;
            append(&mut all, whole);
            let (parts, whole) = all.variance.split_at(all.variance.len() - gate.experts);
            let mut dvariance = vec![0.0; all.variance.len()];
            let (dparts, dwhole) = dvariance.split_at_mut(parts.len());
            let weight = -self.config.lambda_batch_variance / gate.experts as f64;
            state.terms.batch_variance += weighted(weight, whole.iter().sum());
            dwhole.fill(weight);
            for (g, group) in state.groups.iter().enumerate() {
                if group.is_none() || all.count[g] == 0 {
                    continue;
                }
                let own = g * gate.experts..(g + 1) * gate.experts;
                let (value, dbatch) = compare(self.config.dispersion, whole, &parts[own.clone()]);
                state.terms.dispersion += weighted(self.config.lambda_dispersion, value);
                for (d, (whole, part)) in dbatch.iter().zip(dwhole.iter_mut().zip(&mut dparts[own])) {
                    let d = weighted(self.config.lambda_dispersion, *d);
                    *whole += d;
                    *part -= d;
                }
            }
            state.push_gate(GateMoments { moments: all, dvariance }, gate.experts);
        }
        Ok(())
    }
}

/// The moments of gate `i` in every group.
fn group_moments<W: Float>(batch: &FolBatch<'_, W>, groups: &Groups<'_, W>, i: usize) -> Result<Moments> {
    match groups {
        Groups::Ids { ids, count } => {
            let gate = &batch.gates[i];
            moments::forward(gate.weights, gate.experts, &gate.rows_grouped(ids), *count)
        }
        Groups::Separate(batches) => batches.iter().map(|group| &group.gates[i]).try_fold(Moments::default(), |mut all, gate| {
            let one = moments::forward(gate.weights, gate.experts, &gate.rows_counted(), 1)?;
            append(&mut all, one);
            Ok(all)
        }),
    }
}

fn append(all: &mut Moments, more: Moments) {
    all.count.extend(more.count);
    all.mean.extend(more.mean);
    all.variance.extend(more.variance);
}

/// The dispersion of a group's variances from the batch's, and its gradient on the batch's; on the group's it is the negative.
fn compare(reading: Dispersion, batch: &[f64], group: &[f64]) -> (f64, Vec<f64>) {
    let gaps = batch.iter().zip(group).map(|(b, g)| b - g);
    match reading {
        Dispersion::PerExpert => (gaps.clone().map(|gap| gap * gap).sum(), gaps.map(|gap| 2.0 * gap).collect()),
        Dispersion::MeanFirst => {
            let experts = batch.len() as f64;
            let gap = gaps.sum::<f64>() / experts;
            (gap * gap, vec![2.0 * gap / experts; batch.len()])
        }
    }
}
