//! Timing the parts of a work.

use super::{Ceilings, Cost, Part, Work};
use crate::error::Result;
use std::time::{Duration, Instant};

/// How long one part took, over all runs.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The run in the middle.
    pub median: Duration,
    /// The fastest run.
    pub min: Duration,
    /// The slowest run.
    pub max: Duration,
}

impl Times {
    /// Of at least one run.
    pub(super) fn of(mut runs: Vec<Duration>) -> Self {
        runs.sort_unstable();
        Self { median: runs[runs.len() / 2], min: runs[0], max: runs[runs.len() - 1] }
    }
}

/// What was found of one part.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// The stage and the direction.
    pub part: Part,
    /// How long it took; none where time means nothing, on an emulated device.
    pub times: Option<Times>,
    /// Kernels that it launches; none on the CPU.
    pub launches: Option<usize>,
    /// What each run had to do.
    pub cost: Cost,
}

impl Measurement {
    /// The least time that this machine could take: at its fastest product or its fastest copy, whichever takes longer.
    pub fn floor(&self, ceilings: &Ceilings) -> Duration {
        let computing = self.cost.flops / ceilings.flops_per_second;
        Duration::from_secs_f64(computing.max(self.cost.bytes / ceilings.bytes_per_second))
    }
}

/// Runs every part of `work`, once for nothing and then until `budget` is used up, at least five times.
///
/// # Errors
/// Those of the work.
pub fn measure(work: &mut dyn Work, budget: Duration) -> Result<Vec<Measurement>> {
    let mut found = vec![];
    for &part in work.parts() {
        work.run(part)?;
        let (begin, mut times) = (Instant::now(), vec![]);
        while times.len() < 5 || (begin.elapsed() < budget && times.len() < 1000) {
            let start = Instant::now();
            work.run(part)?;
            times.push(start.elapsed());
        }
        found.push(Measurement { part, times: Some(Times::of(times)), launches: None, cost: work.cost(part) });
    }
    Ok(found)
}
