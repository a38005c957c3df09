//! Host side of `kernels/contrast.cu`: the cross entropy of a batch, and the correlations of the batch and its groups, in one launch.

// SAFETY: launches alone; what the addresses hold is the callers' promise.
#![allow(unsafe_code)]

use super::Queue;
use super::args::{ContrastBackward, ContrastBackwardJob, ContrastForward, ContrastJob};
use super::driver::{Pointer, Shape};
use super::limits::{at_least_one, present_if};
use crate::error::{Error, Result};
use crate::fol::Correlation;

const JOBS: usize = 64;
const BACKWARD_JOBS: usize = 50;
/// Samples of a unit.
const TILE: u32 = 32;

/// How many f64 of workspace jobs of so many samples each need.
pub fn parts_len(samples: impl IntoIterator<Item = usize>) -> usize {
    samples.into_iter().map(|samples| samples.div_ceil(TILE as usize)).sum()
}

/// The cross entropy of the first job goes to `terms` `[6]` f64, number 1 and 5; `parts` has [`parts_len`] f64, the counter holds 0.
///
/// # Errors
/// When there are no samples in a job, or an address is missing.
///
/// # Safety
/// As [`super::driver::launch`].
pub unsafe fn forward(
    queue: &Queue<'_>,
    correlation: Correlation,
    lambda_clip: f64,
    jobs: &[ContrastJob],
    terms: Pointer,
    parts: Pointer,
    counter: Pointer,
) -> Result<()> {
    present_if("the counter of contrast", counter, 1)?;
    for (number, own) in jobs.chunks(JOBS).enumerate() {
        let mut args = ContrastForward { parts, counter, lambda_clip, job_count: own.len() as i32, ..Default::default() };
        args.terms = if number == 0 { terms } else { 0 };
        args.square = i32::from(correlation == Correlation::DiagonalOfSquare);
        for (to, job) in args.jobs.iter_mut().zip(own) {
            at_least_one(&[("the number of samples", job.samples)])?;
            present_if("the similarity", job.similarity, job.samples)?;
            present_if("the group ids", job.group, i32::from(job.own != 0))?;
            *to = ContrastJob { first_unit: args.units, ..*job };
            args.units = more(args.units, job.samples)?;
        }
        present_if("the workspace of contrast", parts, i32::from(args.terms != 0))?;
        // SAFETY: the caller's promise.
        unsafe { queue.launch("contrast_forward", Shape::blocks(queue.blocks(args.units as u32, 4)), &args)? };
    }
    Ok(())
}

/// `upstream` times the gradients of each job, which may have no samples; `parts` has [`parts_len`] f64, the counter holds 0.
///
/// # Errors
/// When there are too many samples, or an address is missing.
///
/// # Safety
/// As [`super::driver::launch`].
pub unsafe fn backward(
    queue: &Queue<'_>,
    correlation: Correlation,
    lambda_clip: f64,
    jobs: &[ContrastBackwardJob],
    upstream: f64,
    parts: Pointer,
    counter: Pointer,
) -> Result<()> {
    present_if("the counter of contrast", counter, 1)?;
    for own in jobs.chunks(BACKWARD_JOBS) {
        let mut args = ContrastBackward { parts, counter, upstream, lambda_clip, ..Default::default() };
        args.square = i32::from(correlation == Correlation::DiagonalOfSquare);
        args.job_count = own.len() as i32;
        for (to, job) in args.jobs.iter_mut().zip(own) {
            let needed = [job.similarity, job.dsimilarity, parts];
            needed.iter().try_for_each(|&at| present_if("the similarity or its gradient", at, job.samples))?;
            present_if("the scale's gradient", job.dscale, 1)?;
            present_if("the group ids", job.group, i32::from(job.down != 0))?;
            *to = ContrastBackwardJob { first_unit: args.units, ..*job };
            args.units = more(args.units, job.samples)?;
        }
        // SAFETY: the caller's promise.
        unsafe { queue.launch("contrast_backward", Shape::blocks(queue.blocks(args.units as u32, 4)), &args)? };
    }
    Ok(())
}

fn more(units: i32, samples: i32) -> Result<i32> {
    let sum = units.checked_add((samples.max(0) as u32).div_ceil(TILE) as i32);
    sum.ok_or_else(|| Error::Refused("there are too many samples for one launch".into()))
}
