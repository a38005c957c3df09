//! Forward: moments, contrast, transport.

use super::{DeviceBatch, DeviceGate, DeviceGroups, GateMemory, Memory, Problem};
use crate::error::Result;
use crate::fol::{Dispersion, FolConfig};
use crate::gpu::args::{ContrastJob, MomentsGate, MomentsJob, TransportJob};
use crate::gpu::transport::Transport;
use crate::gpu::{Queue, contrast, moments, transport};

/// The loss, and what backward needs, into `memory`.
///
/// # Errors
/// When a size is out of range or an address is missing.
///
/// # Safety
/// Every address in `problem` holds what its field says, in memory of this queue's device, until the stream has passed the launches;
/// `memory` is that of this problem in a block of its own, as long as it says.
pub unsafe fn forward(queue: &Queue<'_>, config: &FolConfig, problem: &Problem, memory: &Memory) -> Result<()> {
    problem.check()?;
    // SAFETY: the caller's promise.
    unsafe {
        forward_moments(queue, config, problem, memory)?;
        forward_contrast(queue, config, problem, memory)?;
        forward_transport(queue, config, problem, memory)
    }
}

/// Moments and dispersion of every gate: the first part of [`forward`].
pub(crate) unsafe fn forward_moments(queue: &Queue<'_>, config: &FolConfig, problem: &Problem, memory: &Memory) -> Result<()> {
    let gates: Vec<MomentsGate> = (problem.batch.gates.iter().zip(&memory.gates))
        .map(|(gate, at)| MomentsGate {
            count: at.count,
            variance: at.variance,
            dvariance: at.dvariance,
            groups: problem.groups() as i32,
            experts: gate.experts as i32,
        })
        .collect();
    let dispersion = moments::Dispersion {
        gates: &gates,
        terms: memory.terms,
        lambda_dispersion: config.lambda_dispersion,
        lambda_batch_variance: config.lambda_batch_variance,
        mean_first: config.dispersion == Dispersion::MeanFirst,
    };
    // SAFETY: the caller's promise; every part of `memory` has the size that its stage asks for.
    unsafe { moments::forward(queue, &moments_jobs(problem, &memory.gates), &dispersion, memory.parts, memory.counters) }
}

/// The cross entropy and all correlations: the second part of [`forward`].
pub(crate) unsafe fn forward_contrast(queue: &Queue<'_>, config: &FolConfig, problem: &Problem, memory: &Memory) -> Result<()> {
    let (Memory { terms, parts, counters, .. }, jobs) = (memory, contrast_jobs(problem, memory));
    // SAFETY: as above.
    unsafe { contrast::forward(queue, config.correlation, config.lambda_clip, &jobs, *terms, *parts, *counters) }
}

/// The distances between the correlations, and the sum of all terms: the last part of [`forward`].
pub(crate) unsafe fn forward_transport(queue: &Queue<'_>, config: &FolConfig, problem: &Problem, memory: &Memory) -> Result<()> {
    // SAFETY: as above.
    unsafe { transport::forward(queue, &of_transport(config, problem, memory), &transport_jobs(problem, memory)) }
}

/// f64 of workspace that the moments need.
pub(super) fn moments_parts(problem: &Problem) -> Result<usize> {
    let nowhere = GateMemory { count: 0, mean: 0, variance: 0, dvariance: 0 };
    moments::parts_len(&moments_jobs(problem, &vec![nowhere; problem.batch.gates.len()]))
}

fn moments_jobs(problem: &Problem, memory: &[GateMemory]) -> Vec<MomentsJob> {
    let (groups, ids) = (problem.groups(), problem.ids());
    let mut jobs = vec![];
    for (i, (gate, at)) in problem.batch.gates.iter().zip(memory).enumerate() {
        let rows = rows(gate, problem.batch.samples);
        match &problem.groups {
            DeviceGroups::Ids { .. } => {
                jobs.push(MomentsJob { group: ids, groups: groups as i32, whole: 1, ..to(rows, at) });
            }
            DeviceGroups::Separate(batches) => {
                jobs.push(MomentsJob { whole: 1, ..to(rows, &at.skip_groups(groups, gate.experts)) });
                for (g, batch) in batches.iter().enumerate() {
                    let own = MomentsJob {
                        groups: 1,
                        ..to(self::rows(&batch.gates[i], batch.samples), &at.skip_groups(g, gate.experts))
                    };
                    // A group without samples is left out, whatever rows it has.
                    jobs.push(if batch.samples == 0 { MomentsJob { rows: 0, ..own } } else { own });
                }
            }
        }
    }
    jobs
}

fn rows(gate: &DeviceGate, samples: usize) -> MomentsJob {
    let columns = gate.columns != 0;
    MomentsJob {
        x: if columns { gate.columns } else { gate.weights },
        counted: if columns { 0 } else { gate.row_mask },
        rows: if columns { samples } else { gate.rows } as i32,
        columns: gate.experts as i32,
        samples: samples.max(1) as i32,
        run: if columns { 1 } else { gate.run(samples) } as i32,
        merge: i32::from(columns),
        ..Default::default()
    }
}

fn to(job: MomentsJob, at: &GateMemory) -> MomentsJob {
    MomentsJob { count: at.count, mean: at.mean, variance: at.variance, ..job }
}

/// The batch's job is the first.
pub(super) fn contrast_jobs(problem: &Problem, memory: &Memory) -> Vec<ContrastJob> {
    let job = |batch: &DeviceBatch| ContrastJob {
        similarity: batch.similarity,
        scale: batch.scale,
        samples: batch.samples as i32,
        ..Default::default()
    };
    let ids = problem.ids();
    let whole = ContrastJob {
        group: ids,
        sums: memory.sums,
        correlation: memory.correlation,
        own: if ids == 0 { 0 } else { memory.own },
        ..job(&problem.batch)
    };
    let separate = compared(problem).map(|(batch, before)| ContrastJob { correlation: memory.own + before, ..job(batch) });
    std::iter::once(whole).chain(separate).collect()
}

fn of_transport(config: &FolConfig, problem: &Problem, memory: &Memory) -> Transport {
    Transport {
        x: memory.correlation,
        samples: problem.batch.samples,
        dx: memory.dcorrelation,
        distances: memory.distances,
        counts: memory.counts,
        terms: memory.terms,
        parts: memory.parts,
        potentials: memory.potentials,
        counter: memory.counters,
        lambda: config.lambda_distance,
        distance: config.distance,
        normalise: config.normalise,
    }
}

fn transport_jobs(problem: &Problem, memory: &Memory) -> Vec<TransportJob> {
    let job = |samples: usize, before: u64| TransportJob {
        y: memory.own + before,
        normalised: memory.normalised + before,
        dy: memory.down + before,
        count: samples as i32,
        groups: 1,
        ..Default::default()
    };
    match problem.groups {
        DeviceGroups::Ids { ids, count } => {
            vec![TransportJob { group: ids, groups: count as i32, ..job(problem.batch.samples, 0) }]
        }
        DeviceGroups::Separate(_) => compared(problem).map(|(batch, before)| job(batch.samples, before)).collect(),
    }
}

/// The separate groups that have samples, and the bytes of the correlations before theirs.
pub(super) fn compared(problem: &Problem) -> impl Iterator<Item = (&DeviceBatch, u64)> {
    let with_samples = problem.separate().iter().filter(|batch| batch.samples > 0);
    with_samples.scan(0, |end, batch| {
        let before = *end;
        *end += 8 * batch.samples as u64;
        Some((batch, before))
    })
}
