//! Host side of `kernels/transport.cu`: the distances of all groups from the batch, and their gradients, in one launch.

// SAFETY: launches alone; what the addresses hold is the callers' promise.
#![allow(unsafe_code)]

use super::Queue;
use super::args::{TransportForward, TransportJob};
use super::driver::{Pointer, Shape};
use super::limits::present_if;
use crate::error::{Error, Result, product};
use crate::fol::{Distance, Normalise, check_sinkhorn};

/// Samples that a set may have: as many as a block can sort.
pub const MOST_SAMPLES: usize = 4096;
const JOBS: usize = 64;
/// 96 KiB but for what is static.
const SHARED_BYTES: usize = (96 << 10) - 1024;

/// The batch's side, where results go, and how sets are compared.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// x `[N]` f64.
    pub x: Pointer,
    /// N.
    pub samples: usize,
    /// `[N]` f64: the gradient on x of the weighted sum of distances.
    pub dx: Pointer,
    /// `[G]` f64: each group's distance before its weight; 0 for a group without samples.
    pub distances: Pointer,
    /// `[G]` i32: each group's samples.
    pub counts: Pointer,
    /// `[6]` f64, of which it writes number 2, the distances' term, and number 0, the sum of 1 to 4; 0 for none.
    pub terms: Pointer,
    /// Workspace of [`parts_len`] f64.
    pub parts: Pointer,
    /// Workspace of [`potentials_len`] f64; 0 for none.
    pub potentials: Pointer,
    /// Holds 0.
    pub counter: Pointer,
    /// The weight of a distance.
    pub lambda: f64,
    /// How sets are compared.
    pub distance: Distance,
    /// How the groups are scaled before.
    pub normalise: Normalise,
}

/// How many f64 of workspace so many groups take.
///
/// # Errors
/// When there are too many.
pub fn parts_len(multiprocessors: u32, samples: usize, groups: usize) -> Result<usize> {
    product("the workspace of transport", &[blocks(multiprocessors, groups), samples])
}

/// How many f64 of workspace the potentials take; 0 where they fit into shared memory, or there are none. `most` is the largest group.
///
/// # Errors
/// When there are too many.
pub fn potentials_len(multiprocessors: u32, distance: Distance, samples: usize, most: usize, groups: usize) -> Result<usize> {
    if distance == Distance::Exact || shared_bytes(samples, most, true) <= SHARED_BYTES {
        return Ok(0);
    }
    product("the potentials of transport", &[blocks(multiprocessors, groups), 4, samples + most])
}

/// The distances of all jobs' groups, in the order of the jobs.
///
/// # Errors
/// When a set has no samples or more than [`MOST_SAMPLES`], or an address is missing.
///
/// # Safety
/// As [`super::driver::launch`].
pub unsafe fn forward(queue: &Queue<'_>, of: &Transport, jobs: &[TransportJob]) -> Result<()> {
    let (groups, most) = check(of, jobs)?;
    let multiprocessors = queue.driver.facts().multiprocessors;
    let in_workspace = potentials_len(multiprocessors, of.distance, of.samples, most, groups)? > 0;
    present_if("the potentials of transport", of.potentials, i32::from(in_workspace))?;
    let in_shared = of.distance != Distance::Exact && !in_workspace;
    let (mut jobs, mut before) = (jobs, 0);
    loop {
        let own = jobs.split_off(..jobs.len().min(JOBS)).unwrap_or_default();
        let mut args = TransportForward {
            x: of.x,
            dx: of.dx,
            distances: of.distances,
            counts: of.counts,
            parts: of.parts,
            potentials: if in_workspace { of.potentials } else { 0 },
            counter: of.counter,
            terms: if jobs.is_empty() { of.terms } else { 0 },
            lambda: of.lambda,
            samples: of.samples as i32,
            most: most as i32,
            groups: groups as i32,
            job_count: own.len() as i32,
            group_sum: i32::from(of.normalise == Normalise::GroupSum),
            add: i32::from(before > 0),
            ..Default::default()
        };
        if let Distance::Sinkhorn { blur, scaling } = of.distance {
            (args.blur, args.log_blur, args.log_scaling) = (blur, blur.ln(), scaling.ln());
        }
        for (to, job) in args.jobs.iter_mut().zip(own) {
            *to = TransportJob { first_group: before, first_unit: args.units, ..*job };
            args.units += job.groups;
            before += job.groups;
        }
        let shape = Shape::blocks(blocks(multiprocessors, args.units as usize) as u32);
        let bytes = shared_bytes(of.samples, most, in_shared) as u32;
        // SAFETY: the caller's promise.
        unsafe { queue.launch("transport_forward", shape.shared(bytes), &args)? };
        if jobs.is_empty() {
            return Ok(());
        }
    }
}

/// How many groups there are, and the samples of the largest.
fn check(of: &Transport, jobs: &[TransportJob]) -> Result<(usize, usize)> {
    if let Distance::Sinkhorn { blur, scaling } = of.distance {
        check_sinkhorn(blur, scaling)?;
    }
    check_samples(of.samples as i64)?;
    let needed = [of.x, of.dx, of.parts, of.counter];
    needed.iter().try_for_each(|&at| present_if("x of transport, or of what belongs to it", at, 1))?;
    let mut groups = 0i32;
    for job in jobs {
        check_samples(job.count.into())?;
        let sum = groups.checked_add(job.groups).filter(|_| job.groups >= 0);
        groups = sum.ok_or_else(|| Error::Refused("there are too many groups".into()))?;
        let needed = [job.y, job.normalised, job.dy, of.distances, of.counts];
        needed.iter().try_for_each(|&at| present_if("a group of transport", at, job.groups))?;
        present_if("the group ids", job.group, i32::from(job.groups > 1))?;
    }
    Ok((groups as usize, jobs.iter().map(|job| job.count as usize).max().unwrap_or(1)))
}

fn check_samples(samples: i64) -> Result<()> {
    let expected = || format!("from 1 to {MOST_SAMPLES} on a GPU");
    let fits = samples >= 1 && samples <= MOST_SAMPLES as i64;
    if fits { Ok(()) } else { Err(Error::config("the number of samples that transport compares", expected(), samples)) }
}

fn blocks(multiprocessors: u32, groups: usize) -> usize {
    groups.clamp(1, multiprocessors as usize)
}

fn shared_bytes(samples: usize, most: usize, potentials: bool) -> usize {
    10 * (samples.next_power_of_two() + most.next_power_of_two()) + if potentials { 32 * (samples + most) } else { 0 }
}
