//! Backward: the gradient that forward left on a few numbers, spread over the large arrays.

use super::{DeviceBatch, DeviceGroups, GateMemory, Memory, Problem};
use crate::error::{Result, expect_shape};
use crate::fol::FolConfig;
use crate::gpu::args::{ContrastBackwardJob, MomentsBackwardJob};
use crate::gpu::driver::Pointer;
use crate::gpu::{Queue, contrast, moments};

/// Where gradients on one batch go. They overwrite what is there.
#[derive(Clone, Debug, Default)]
pub struct DeviceGradients {
    /// f32 `[B, B]`.
    pub dsimilarity: Pointer,
    /// f64, on the scale.
    pub dscale: Pointer,
    /// Each gate's, f32 `[rows, E]`.
    pub dweights: Vec<Pointer>,
    /// On separate groups, in their order: read if gradients flow into groups.
    pub groups: Vec<DeviceGradients>,
}

/// `upstream` times the gradients of the loss, from what [`super::forward`] left in `memory`.
///
/// # Errors
/// As [`super::forward`].
///
/// # Safety
/// As [`super::forward`]; and every address in `gradients` has room for what its field says.
pub unsafe fn backward(
    queue: &Queue<'_>,
    config: &FolConfig,
    problem: &Problem,
    memory: &Memory,
    upstream: f64,
    gradients: &DeviceGradients,
) -> Result<()> {
    problem.check()?;
    if config.group_gradient {
        expect_shape("the gradients on separate groups", &[problem.separate().len()], gradients.groups.len())?;
    }
    // SAFETY: the caller's promise.
    unsafe {
        backward_moments(queue, config, problem, memory, upstream, gradients)?;
        backward_contrast(queue, config, problem, memory, upstream, gradients)
    }
}

/// The gradients on the gates' weights: the first part of [`backward`].
pub(crate) unsafe fn backward_moments(
    queue: &Queue<'_>,
    config: &FolConfig,
    problem: &Problem,
    memory: &Memory,
    upstream: f64,
    gradients: &DeviceGradients,
) -> Result<()> {
    let (groups, ids, flows) = (problem.groups(), problem.ids(), config.group_gradient);
    let of_groups = config.lambda_dispersion != 0.0;
    let of_whole = of_groups || config.lambda_batch_variance != 0.0;
    let whole = MomentsBackwardJob { of_whole: i32::from(of_whole), ..Default::default() };
    let whole = match problem.groups {
        DeviceGroups::Ids { .. } => {
            MomentsBackwardJob { group: ids, groups: groups as i32, of_groups: i32::from(flows && of_groups), ..whole }
        }
        DeviceGroups::Separate(_) => whole,
    };
    let mut jobs = vec![];
    // Separate groups stand before the batch, with ids they are found from the first on.
    let from = if ids == 0 { groups } else { 0 };
    push_gates(&mut jobs, &problem.batch, memory, from, gradients, whole)?;
    for (g, (batch, gradients)) in problem.separate().iter().zip(&gradients.groups).enumerate().filter(|_| flows) {
        let own = MomentsBackwardJob { groups: 1, of_groups: i32::from(of_groups), ..Default::default() };
        push_gates(&mut jobs, batch, memory, g, gradients, own)?;
    }
    // SAFETY: the caller's promise.
    unsafe { moments::backward(queue, &jobs, upstream) }
}

/// The gradients on similarities and scales: the other part of [`backward`].
pub(crate) unsafe fn backward_contrast(
    queue: &Queue<'_>,
    config: &FolConfig,
    problem: &Problem,
    memory: &Memory,
    upstream: f64,
    gradients: &DeviceGradients,
) -> Result<()> {
    let (ids, flows) = (problem.ids(), config.group_gradient);
    let of_distance = config.lambda_distance != 0.0;
    let only = |wanted: bool, at: Pointer| if wanted { at } else { 0 };
    let mut jobs = vec![ContrastBackwardJob {
        group: ids,
        sums: only(config.lambda_clip != 0.0, memory.sums),
        dcorrelation: only(of_distance, memory.dcorrelation),
        down: only(of_distance && flows && ids != 0, memory.down),
        ..pair(&problem.batch, gradients)
    }];
    let mut before = 0;
    for (batch, gradients) in problem.separate().iter().zip(&gradients.groups).filter(|_| flows) {
        jobs.push(ContrastBackwardJob { dcorrelation: only(of_distance, memory.down + before), ..pair(batch, gradients) });
        before += 8 * batch.samples as u64;
    }
    // SAFETY: the caller's promise.
    unsafe { contrast::backward(queue, config.correlation, config.lambda_clip, &jobs, upstream, memory.parts, memory.counters) }
}

/// One job for each gate of a batch, with its moments from group `g` on.
fn push_gates(
    jobs: &mut Vec<MomentsBackwardJob>,
    batch: &DeviceBatch,
    memory: &Memory,
    g: usize,
    gradients: &DeviceGradients,
    like: MomentsBackwardJob,
) -> Result<()> {
    expect_shape("the gradients on gates", &[batch.gates.len()], gradients.dweights.len())?;
    for ((gate, at), &dx) in batch.gates.iter().zip(&memory.gates).zip(&gradients.dweights) {
        let GateMemory { count, mean, dvariance, .. } = at.skip_groups(g, gate.experts);
        jobs.push(MomentsBackwardJob {
            x: gate.weights,
            counted: gate.row_mask,
            count,
            mean,
            dvariance,
            dx,
            rows: gate.rows as i32,
            columns: gate.experts as i32,
            samples: batch.samples.max(1) as i32,
            run: gate.run(batch.samples) as i32,
            ..like
        });
    }
    Ok(())
}

fn pair(batch: &DeviceBatch, gradients: &DeviceGradients) -> ContrastBackwardJob {
    ContrastBackwardJob {
        similarity: batch.similarity,
        dsimilarity: gradients.dsimilarity,
        dscale: gradients.dscale,
        scale: batch.scale,
        samples: batch.samples as i32,
        ..Default::default()
    }
}
