//! The moments of what lies in the host's memory: up, launch, down.

use super::{COUNTERS, Dispersion, MomentsBackwardJob, MomentsJob, backward, forward, parts_len};
use crate::cpu::moments::{Moments, check, check_gradients};
use crate::dtype::Float;
use crate::error::Result;
use crate::gpu::driver::Driver;
use crate::gpu::kernels::{KERNELS, Kernel};
use crate::gpu::limits::{count, narrow};
use crate::gpu::session::Session;
use std::sync::Arc;

fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().filter(|kernel| kernel.name.starts_with("moments")).collect()
}

fn ids(group: &[i64]) -> Vec<i32> {
    group.iter().map(|&id| id as i32).collect()
}

/// As [`crate::moments::forward`].
pub(crate) fn host_forward<W: Float>(
    driver: &Arc<dyn Driver>,
    x: &[W],
    columns: usize,
    group: &[i64],
    groups: usize,
) -> Result<Moments> {
    check(x, columns, group, groups)?;
    driver.prepare(&kernels())?;
    let session = Session::new(driver)?;
    let (x, ids, sizes) = (session.upload(narrow(x)?)?, session.upload(&ids(group))?, groups * columns);
    let (counts, mean, variance) = (session.empty::<i32>(groups)?, session.empty(sizes)?, session.empty(sizes)?);
    let job = MomentsJob {
        x: x.pointer(),
        group: ids.pointer(),
        count: counts.pointer(),
        mean: mean.pointer(),
        variance: variance.pointer(),
        rows: count("the number of rows", group.len())?,
        columns: count("the number of columns", columns)?,
        groups: groups as i32,
        samples: group.len().max(1) as i32,
        run: 1,
        ..Default::default()
    };
    let (parts, counters) = (session.empty::<f64>(parts_len(&[job])?)?, session.upload(&[0i32; COUNTERS])?);
    // SAFETY: the buffers have the sizes that the job tells, and live on.
    unsafe { forward(&session.queue(), &[job], &Dispersion::default(), parts.pointer(), counters.pointer())? };
    let count = counts.to_vec()?.into_iter().map(|n| n as usize).collect();
    Ok(Moments { count, mean: mean.to_vec()?, variance: variance.to_vec()? })
}

/// As [`crate::moments::backward`], but returns dx.
pub(crate) fn host_backward<W: Float>(
    driver: &Arc<dyn Driver>,
    x: &[W],
    columns: usize,
    group: &[i64],
    moments: &Moments,
    dmean: &[f64],
    dvariance: &[f64],
) -> Result<Vec<W>> {
    check(x, columns, group, moments.count.len())?;
    check_gradients(columns, moments, dmean, dvariance)?;
    driver.prepare(&kernels())?;
    let session = Session::new(driver)?;
    let (x, ids, dx) = (session.upload(narrow(x)?)?, session.upload(&ids(group))?, session.empty::<f32>(x.len())?);
    let counts = session.upload(&moments.count.iter().map(|&n| n as i32).collect::<Vec<i32>>())?;
    let (mean, dmean, dvariance) = (session.upload(&moments.mean)?, session.upload(dmean)?, session.upload(dvariance)?);
    let job = MomentsBackwardJob {
        x: x.pointer(),
        group: ids.pointer(),
        count: counts.pointer(),
        mean: mean.pointer(),
        dmean: dmean.pointer(),
        dvariance: dvariance.pointer(),
        dx: dx.pointer(),
        rows: count("the number of rows", group.len())?,
        columns: count("the number of columns", columns)?,
        groups: moments.count.len() as i32,
        samples: group.len().max(1) as i32,
        run: 1,
        of_groups: 1,
        ..Default::default()
    };
    // SAFETY: as above.
    unsafe { backward(&session.queue(), &[job], 1.0)? };
    Ok(dx.to_vec()?.into_iter().map(|v| W::from_f64(v.into())).collect())
}
