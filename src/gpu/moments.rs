//! Host side of `kernels/moments.cu`: group-wise moments of many arrays in one launch, and the gates' dispersion.

// SAFETY: launches alone; what the addresses hold is the callers' promise.
#![allow(unsafe_code)]

#[cfg(feature = "cli")]
mod slices;

#[cfg(feature = "cli")]
pub(crate) use slices::{host_backward, host_forward};

use super::Queue;
use super::args::{MomentsBackward, MomentsBackwardJob, MomentsForward, MomentsGate, MomentsJob};
use super::driver::{Pointer, Shape};
use super::limits::present_if;
use crate::error::{Error, Result, product};

const JOBS: usize = 32;
const GATES: usize = 12;
const BACKWARD_JOBS: usize = 36;
const THREADS: i32 = 128;
/// Groups that are summed at once, as shared memory allows: 16 of them, the rows of none, and some more.
const WINDOW: i32 = 24;
const WINDOW_BYTES: u32 = 3072;
/// Rows of a thread on the way back.
const BACKWARD_ROWS: i32 = 4;
/// i32 that hold 0 before a pass, and after it: arrivals of blocks, and of the units of each job of a launch.
pub const COUNTERS: usize = JOBS + 1;
/// Rows of a chunk at least, and chunks of a job at most.
const CHUNK: i32 = 256;
const CHUNKS: i32 = 64;

/// What is made of the gates' moments, once they are all there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dispersion<'a> {
    /// The gates.
    pub gates: &'a [MomentsGate],
    /// `[6]` f64, of which it writes number 3, the dispersion, and number 4, the batch's own; 0 for none.
    pub terms: Pointer,
    /// The weight of the dispersion.
    pub lambda_dispersion: f64,
    /// The weight of the batch's own.
    pub lambda_batch_variance: f64,
    /// Whether means over experts are compared, else expert by expert.
    pub mean_first: bool,
}

/// How many f64 of workspace the jobs need.
///
/// # Errors
/// When there are too many.
pub fn parts_len(jobs: &[MomentsJob]) -> Result<usize> {
    jobs.iter().try_fold(0usize, |sum, job| {
        let groups = (job.groups + job.whole).max(0) as usize;
        let sizes = [chunks(job.rows, groups as i32).1 as usize, groups, job.columns.max(0) as usize, 3];
        Ok(sum + product("the workspace of the moments", &sizes)?)
    })
}

/// (rows of a chunk, chunks): one at least, which says that there are no rows; fewer where there are many groups, of which each leaves
/// something behind.
fn chunks(rows: i32, groups: i32) -> (i32, i32) {
    let most = (4096 / groups.max(1)).clamp(1, CHUNKS);
    let rows_each = (rows.max(0) / most + 1).max(CHUNK);
    (rows_each, (rows.max(1) - 1) / rows_each + 1)
}

fn tiles(columns: i32) -> i32 {
    (columns - 1) / THREADS + 1
}

/// The moments of all jobs, then the dispersion; `parts` has [`parts_len`] f64, the [`COUNTERS`] hold 0.
///
/// # Errors
/// When a size is out of range or an address is missing.
///
/// # Safety
/// As [`super::driver::launch`].
pub unsafe fn forward(
    queue: &Queue<'_>,
    jobs: &[MomentsJob],
    dispersion: &Dispersion<'_>,
    parts: Pointer,
    counters: Pointer,
) -> Result<()> {
    for job in jobs {
        check_sizes(job.rows, job.columns, job.groups, job.samples, job.run)?;
        present_if("x of the moments", job.x, job.rows)?;
        [job.count, job.mean, job.variance].iter().try_for_each(|&at| present_if("moments", at, job.groups + job.whole))?;
    }
    present_if("the counters of the moments", counters, 1)?;
    let mut placed = jobs.to_vec();
    let mut at = 0;
    for job in &mut placed {
        (job.chunk_rows, job.parts) = (chunks(job.rows, job.groups + job.whole).0, at as i64);
        at += parts_len(&[*job])?;
    }
    let (mut jobs, mut gates, mut add) = (&placed[..], dispersion.gates, false);
    loop {
        let own = jobs.split_off(..jobs.len().min(JOBS)).unwrap_or_default();
        // Gates need the moments of all jobs.
        let gates_now = if jobs.is_empty() { gates.len().min(GATES) } else { 0 };
        let own_gates = gates.split_off(..gates_now).unwrap_or_default();
        let mut args = MomentsForward {
            parts,
            counters,
            terms: dispersion.terms,
            lambda_dispersion: dispersion.lambda_dispersion,
            lambda_batch_variance: dispersion.lambda_batch_variance,
            job_count: own.len() as i32,
            gate_count: own_gates.len() as i32,
            mean_first: i32::from(dispersion.mean_first),
            add_terms: i32::from(add),
            ..Default::default()
        };
        args.gates[..own_gates.len()].copy_from_slice(own_gates);
        for (to, job) in args.jobs.iter_mut().zip(own) {
            let groups = job.groups + job.whole;
            *to = MomentsJob { first_unit: args.units, ..*job };
            args.units = more(args.units, chunks(job.rows, groups).1, tiles(job.columns))?;
            args.window = args.window.max(groups.min(WINDOW));
        }
        let shape = Shape::blocks(queue.blocks(args.units as u32, 8)).shared(args.window as u32 * WINDOW_BYTES);
        // SAFETY: the caller's promise.
        unsafe { queue.launch("moments_forward", shape, &args)? };
        add = true;
        if jobs.is_empty() && gates.is_empty() {
            return Ok(());
        }
    }
}

/// `upstream` times the gradient of each job's array.
///
/// # Errors
/// When a size is out of range or an address is missing.
///
/// # Safety
/// As [`super::driver::launch`].
pub unsafe fn backward(queue: &Queue<'_>, jobs: &[MomentsBackwardJob], upstream: f64) -> Result<()> {
    for own in jobs.chunks(BACKWARD_JOBS) {
        let mut args = MomentsBackward { upstream, job_count: own.len() as i32, ..Default::default() };
        for (to, job) in args.jobs.iter_mut().zip(own) {
            check_sizes(job.rows, job.columns, job.groups, job.samples, job.run)?;
            [job.x, job.dx].iter().try_for_each(|&at| present_if("x and dx of the moments", at, job.rows))?;
            let read = job.rows.min(job.groups * job.of_groups + job.of_whole);
            [job.count, job.mean, job.dvariance].iter().try_for_each(|&at| present_if("moments and gradients", at, read))?;
            let chunk_rows = BACKWARD_ROWS * (THREADS / job.columns.min(THREADS));
            *to = MomentsBackwardJob { first_unit: args.units, chunk_rows, ..*job };
            args.units = more(args.units, (job.rows - 1) / chunk_rows + 1, tiles(job.columns))?;
        }
        // SAFETY: the caller's promise.
        unsafe { queue.launch("moments_backward", Shape::blocks(queue.blocks(args.units as u32, 4)), &args)? };
    }
    Ok(())
}

fn more(units: i32, chunks: i32, tiles: i32) -> Result<i32> {
    let sum = chunks.checked_mul(tiles).and_then(|n| n.checked_add(units));
    sum.ok_or_else(|| Error::Refused("the moments' arrays are too wide for one launch".into()))
}

fn check_sizes(rows: i32, columns: i32, groups: i32, samples: i32, run: i32) -> Result<()> {
    let sizes = [("rows", rows, 0), ("columns", columns, 1), ("groups", groups, 0), ("samples", samples, 1), ("a run", run, 1)];
    match sizes.into_iter().find(|(_, size, least)| size < least) {
        Some((what, size, least)) => Err(Error::config(what, format!("at least {least}"), size)),
        None => Ok(()),
    }
}
