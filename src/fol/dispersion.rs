//! How far apart the variances of the experts' weights are, of the batch and of its groups.

use super::state::GateMoments;
use super::{Dispersion, Fol, FolBatch, FolState, Groups, weighted};
use crate::cpu::{moments, moments::Moments};
use crate::dtype::Float;
use crate::error::Result;

impl GateMoments {
    fn new(moments: Moments) -> Self {
        let dvariance = vec![0.0; moments.variance.len()];
        Self { moments, dvariance }
    }

    /// Group `g` of a gate of so many experts, alone.
    pub(super) fn group(&self, g: usize, experts: usize) -> Self {
        let of = |all: &[f64]| all[g * experts..(g + 1) * experts].to_vec();
        let (mean, variance) = (of(&self.moments.mean), of(&self.moments.variance));
        Self { moments: Moments { count: vec![self.moments.count[g]], mean, variance }, dvariance: of(&self.dvariance) }
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
            let mut whole = GateMoments::new(moments::forward(gate.weights, gate.experts, &gate.rows_counted(), 1)?);
            let mut parts = GateMoments::new(group_moments(batch, groups, i)?);
            let weight = -self.config.lambda_batch_variance / gate.experts as f64;
            state.terms.batch_variance += weighted(weight, whole.moments.variance.iter().sum());
            whole.dvariance.fill(weight);
            if whole.moments.count[0] < 2 {
                state.warnings.push(format!("in gate {i} the batch has fewer than two rows, so its variance is 0"));
            }
            for (g, group) in state.groups.iter_mut().enumerate() {
                let Some(group) = group else { continue };
                let own = g * gate.experts..(g + 1) * gate.experts;
                let variance = &parts.moments.variance[own.clone()];
                group.variance.push(variance.to_vec());
                match parts.moments.count[g] {
                    0 => {
                        state.warnings.push(format!("in gate {i} group {g} has no rows and is left out"));
                        continue;
                    }
                    1 => state.warnings.push(format!("in gate {i} group {g} has a single row, so its variance is 0")),
                    _ => {}
                }
                let (value, dbatch) = compare(self.config.dispersion, &whole.moments.variance, variance);
                state.terms.dispersion += weighted(self.config.lambda_dispersion, value);
                for (d, (whole, part)) in dbatch.iter().zip(whole.dvariance.iter_mut().zip(&mut parts.dvariance[own])) {
                    let d = weighted(self.config.lambda_dispersion, *d);
                    *whole += d;
                    *part -= d;
                }
            }
            state.variance.push(whole.moments.variance.clone());
            state.batch_moments.push(whole);
            state.group_moments.push(parts);
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
            all.count.extend(one.count);
            all.mean.extend(one.mean);
            all.variance.extend(one.variance);
            Ok(all)
        }),
    }
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
