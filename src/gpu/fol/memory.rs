//! What a pass of the loss needs beside its input, and where in it everything is.

use super::{DeviceGroups, Problem};
use crate::error::Result;
use crate::fol::FolConfig;
use crate::gpu::carve::Carve;
use crate::gpu::driver::{Facts, Pointer};
use crate::gpu::{contrast, moments, transport};

/// Addresses in one block of memory. The counters hold 0 before the first pass; every pass leaves 0 there.
#[derive(Clone, Debug)]
pub struct Memory {
    /// i32 [`moments::COUNTERS`]: arrivals of blocks.
    pub counters: Pointer,
    /// f64 `[6]`: the total, then the weighted cross entropy, distances, dispersions and the batch's own; then the cross entropy itself.
    pub terms: Pointer,
    /// f64 `[B]` the batch's correlation.
    pub correlation: Pointer,
    /// f64 `[B]` the loss's gradient on it.
    pub dcorrelation: Pointer,
    /// f64: the correlations of the groups: with ids `[B]` each sample's in its group; else those of the groups one behind the other.
    pub own: Pointer,
    /// Like `own`: after normalising.
    pub normalised: Pointer,
    /// Like `own`: the loss's gradient on it.
    pub down: Pointer,
    /// f64: the distance of each group; of separate ones, each that has samples.
    pub distances: Pointer,
    /// i32, likewise: its samples.
    pub counts: Pointer,
    /// Each gate's moments.
    pub gates: Vec<GateMemory>,
    /// Bytes of all of the above, which backward reads.
    pub state_bytes: usize,
    /// f64 `[B, 4]`: backward reads it where the cross entropy counts.
    pub sums: Pointer,
    pub(super) parts: Pointer,
    pub(super) potentials: Pointer,
    /// Bytes of everything.
    pub bytes: usize,
}

/// One gate's moments: of the G groups, and behind them of the batch.
#[derive(Clone, Copy, Debug)]
pub struct GateMemory {
    /// i32 `[G + 1]` rows.
    pub count: Pointer,
    /// f64 `[G + 1, E]`.
    pub mean: Pointer,
    /// f64 `[G + 1, E]`.
    pub variance: Pointer,
    /// f64 `[G + 1, E]` the loss's gradient on the variance.
    pub dvariance: Pointer,
}

impl GateMemory {
    /// Without the first `g` groups.
    pub(super) fn skip_groups(&self, g: usize, experts: usize) -> Self {
        let behind = |at: Pointer| at + (8 * g * experts) as Pointer;
        Self {
            count: self.count + 4 * g as Pointer,
            mean: behind(self.mean),
            variance: behind(self.variance),
            dvariance: behind(self.dvariance),
        }
    }
}

impl Memory {
    /// In the block that begins at `begin`; from 0 it tells how large the block must be.
    ///
    /// # Errors
    /// When sizes are out of range, or the loss is one that only the CPU computes.
    pub fn new(facts: &Facts, config: &FolConfig, problem: &Problem, begin: Pointer) -> Result<Self> {
        problem.check()?;
        config.check_gpu()?;
        let (samples, groups) = (problem.batch.samples, problem.groups());
        let (own, compared) = problem.compared();
        let mut carve = Carve::new(begin);
        let f64s = |carve: &mut Carve, what, len: usize| carve.take(what, &[len], 8);
        let counters = carve.take("the counters", &[moments::COUNTERS], 4)?;
        let terms = f64s(&mut carve, "the terms", 6)?;
        let correlation = f64s(&mut carve, "the correlation", samples)?;
        let dcorrelation = f64s(&mut carve, "its gradient", samples)?;
        let of_groups = "the groups' correlations";
        let [own, normalised, down] =
            [f64s(&mut carve, of_groups, own)?, f64s(&mut carve, of_groups, own)?, f64s(&mut carve, of_groups, own)?];
        let distances = f64s(&mut carve, "the distances", compared)?;
        let counts = carve.take("the groups' samples", &[compared], 4)?;
        let mut gates = vec![];
        for gate in &problem.batch.gates {
            let (what, sizes) = ("a gate's moments", [groups + 1, gate.experts]);
            gates.push(GateMemory {
                count: carve.take(what, &sizes[..1], 4)?,
                mean: carve.take(what, &sizes, 8)?,
                variance: carve.take(what, &sizes, 8)?,
                dvariance: carve.take(what, &sizes, 8)?,
            });
        }
        let state_bytes = carve.bytes();
        let sums = carve.take("the logits' sums", &[samples, 4], 8)?;
        let parts = f64s(&mut carve, "the workspace of the loss", parts_len(facts, problem)?)?;
        let most = problem.most();
        let potentials = transport::potentials_len(facts.multiprocessors, config.distance, samples, most, compared)?;
        let potentials = f64s(&mut carve, "the potentials", potentials)?;
        Ok(Self {
            counters,
            terms,
            correlation,
            dcorrelation,
            own,
            normalised,
            down,
            distances,
            counts,
            gates,
            state_bytes,
            sums,
            parts,
            potentials,
            bytes: carve.bytes(),
        })
    }
}

/// One workspace serves all stages in turn.
fn parts_len(facts: &Facts, problem: &Problem) -> Result<usize> {
    let moments = super::forward::moments_parts(problem)?;
    let separate = problem.separate().iter().map(|batch| batch.samples);
    let contrast = contrast::parts_len(std::iter::once(problem.batch.samples).chain(separate));
    let groups = match &problem.groups {
        DeviceGroups::Ids { count, .. } => *count,
        DeviceGroups::Separate(_) => problem.compared().1,
    };
    Ok(moments.max(contrast).max(transport::parts_len(facts.multiprocessors, problem.batch.samples, groups)?))
}
