//! The layer on a device. The raw level: addresses, sizes and a stream, no more. It launches and nothing else: no allocation, no copy and
//! no wait, so that a pass can be captured as a graph.
//!
//! Every buffer is the caller's. [`state_layout`] tells the sizes of what forward leaves to backward, [`forward_workspace_bytes`] and
//! [`backward_workspace_bytes`] those of what a pass needs for itself; a workspace holds nothing between two passes, and passes on
//! several streams need one each.

// SAFETY: what the addresses hold is the caller's promise, passed on to each launch.
#![allow(unsafe_code)]

mod backward;
mod forward;
mod host_state;
mod resident;
mod sizes;
mod slices;
mod workspace;

pub use backward::{Backward, MoeBackwardArgs};
pub use forward::{Forward, MoeForwardArgs};
pub use resident::{Resident, ResidentBackward, ResidentForward};
pub use sizes::{Sizes, State, StatePart, carve_state, state_layout};
pub use slices::{backward, forward};
pub use workspace::{backward_workspace_bytes, forward_workspace_bytes};

use super::Queue;
use super::args::{ExpertGradients, ExpertWeights, Pairs};
use super::driver::{Arch, Facts, Pointer};
use super::kernels::{KERNELS, Kernel};
use super::plan::Plan;
use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::moe::Layout;
use crate::parameters::{Param, Parameters};

/// What both passes of a layer take. Addresses are of device memory, 0 for none.
#[derive(Clone, Debug)]
pub struct DeviceInput {
    /// f32, f16 or bf16: of x, y, the parameters and what is between them.
    pub dtype: DType,
    /// T.
    pub tokens: usize,
    /// B.
    pub samples: usize,
    /// The order of the rows.
    pub layout: Layout,
    /// x: a row at each `x_stride` elements.
    pub x: Pointer,
    /// At least D.
    pub x_stride: usize,
    /// u8 `[N]`: 0 leaves a row out of routing; none: all take part.
    pub routed: Pointer,
    /// u8 `[N]`: 0 for a row whose output is not needed; none: all are.
    pub needed: Pointer,
    /// How many rows are needed: as many as `needed` says, or N.
    pub needed_rows: usize,
    /// The parameters, 0 for those that the layer does not have.
    pub parameters: Parameters<Pointer>,
}

/// Memory that a pass uses for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workspace {
    /// Where it begins: at a multiple of 256 for full speed, of 16 at least.
    pub at: Pointer,
    /// How long it is.
    pub bytes: usize,
}

/// y, and what `args` says is left behind.
///
/// # Safety
/// Every address in `args` is 0 or holds what its field says, in memory of this queue's device, until the stream has passed the launches;
/// nothing that is written overlaps anything else; `needed_rows` counts what `needed` holds.
///
/// # Errors
/// When a size or a buffer is missing or too small, or a launch fails.
pub unsafe fn moe_forward(queue: &Queue<'_>, config: &MoeConfig, args: &MoeForwardArgs) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { Forward::new(queue.driver.facts(), config, args)?.launch(queue) }
}

/// The gradients of x and of every parameter.
///
/// # Safety
/// As [`moe_forward`]; and the state is what a forward pass over this input left.
///
/// # Errors
/// As [`moe_forward`].
pub unsafe fn moe_backward(queue: &Queue<'_>, config: &MoeConfig, args: &MoeBackwardArgs) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { Backward::new(queue.driver.facts(), config, args)?.launch(queue) }
}

/// The kernels of a layer, for [`super::driver::Driver::prepare`].
pub fn kernels(arch: Arch, dtype: DType) -> Vec<&'static Kernel> {
    let others: Vec<String> = DType::ALL.into_iter().filter(|d| *d != dtype).map(|d| format!("_{d}")).collect();
    let ours = |kernel: &&Kernel| {
        let layer = ["gate", "route", "experts", "combine"].into_iter().any(|stem| kernel.name.starts_with(stem));
        layer && (!kernel.hopper || arch == Arch::HOPPER) && !others.iter().any(|other| kernel.name.ends_with(other))
    };
    KERNELS.iter().filter(ours).collect()
}

impl DeviceInput {
    fn check(&self, config: &MoeConfig) -> Result<Sizes> {
        expect_dtype(self.dtype)?;
        let sizes = Sizes::new(config, self.tokens, self.samples, self.needed_rows)?;
        if self.needed == 0 && self.needed_rows != sizes.rows {
            return Err(Error::config("the number of rows needed", format!("{} without a mask", sizes.rows), self.needed_rows));
        }
        expect_row("x", self.x, self.x_stride, config.width)?;
        Ok(sizes)
    }
}

/// Refuses what no kernel computes in.
pub(super) fn expect_dtype(dtype: DType) -> Result<()> {
    match dtype {
        DType::F64 => Err(Error::Refused("a GPU's kernels compute in f32, f16 or bf16, not in f64; the CPU does".into())),
        _ => Ok(()),
    }
}

fn expect_address(what: impl FnOnce() -> String, at: Pointer) -> Result<()> {
    if at == 0 { Err(Error::Refused(format!("{} has no address", what()))) } else { Ok(()) }
}

fn expect_row(what: &'static str, at: Pointer, stride: usize, width: usize) -> Result<()> {
    expect_address(|| what.into(), at)?;
    match stride >= width && i64::try_from(stride).is_ok() {
        true => Ok(()),
        false => Err(Error::config("a row's stride", format!("at least the width {width}, for {what}"), stride)),
    }
}

/// The parameters that the layer has, and no address for those that it has not: an empty buffer has an address too.
fn present(what: &str, config: &MoeConfig, all: &Parameters<Pointer>) -> Result<Parameters<Pointer>> {
    let has = |p: &Param| p.len(config) > 0;
    Param::ALL.into_iter().filter(has).try_for_each(|p| expect_address(|| format!("{what} {}", p.name()), all[p]))?;
    Ok(Parameters::from_fn(|p| if has(&p) { all[p] } else { 0 }))
}

/// Refuses a state that lacks a part which its layer has.
fn expect_parts(config: &MoeConfig, input: &DeviceInput, state: &State<Pointer>, saved: bool) -> Result<()> {
    let layout = state_layout(config, input.dtype, input.tokens, input.samples, input.needed_rows, saved)?;
    StatePart::ALL
        .into_iter()
        .filter(|&part| layout[part] > 0)
        .try_for_each(|part| expect_address(|| part.name().into(), state[part]))
}

/// The tiles of a pass whose products read x and the state, and read or write `others`: addresses, and the strides of their rows.
fn plan(
    facts: &Facts,
    config: &MoeConfig,
    input: &DeviceInput,
    sizes: &Sizes,
    state: &State<Pointer>,
    others: impl Iterator<Item = (Pointer, usize)>,
) -> Plan {
    let kept = [StatePart::Inner, StatePart::Glu].map(|part| (state[part], 0));
    let mut operands = others.chain([(input.x, input.x_stride)]).chain(kept);
    let aligned = |(at, stride): (Pointer, usize)| at % 16 == 0 && stride % (16 / input.dtype.bytes()) == 0;
    let plan = Plan::new(facts, config, input.dtype, sizes);
    if operands.all(aligned) { plan } else { plan.without_maps() }
}

/// The experts' parameters or gradients, as [`plan`] takes them.
fn addresses(all: &Parameters<Pointer>) -> impl Iterator<Item = (Pointer, usize)> {
    let (routed, shared) = experts_of(all, |addresses| addresses);
    routed.into_iter().chain(shared).map(|at| (at, 0))
}

fn pairs(state: &State<Pointer>, plan: &Plan) -> Pairs {
    Pairs {
        expert_offsets: state[StatePart::ExpertOffsets],
        pair_row: state[StatePart::PairRow],
        pair_weight: state[StatePart::PairWeight],
        tiles: state[StatePart::Tiles],
        tile_rows: plan.rows as i32,
    }
}

/// The parameters of the experts, and of the shared one.
fn weights_of(parameters: &Parameters<Pointer>) -> (ExpertWeights, ExpertWeights) {
    experts_of(parameters, |[fc1_weight, fc1_bias, glu_weight, glu_bias, fc2_weight, fc2_bias]| ExpertWeights {
        fc1_weight,
        fc1_bias,
        glu_weight,
        glu_bias,
        fc2_weight,
        fc2_bias,
    })
}

/// The gradients of the experts, and of the shared one.
fn gradients_of(gradients: &Parameters<Pointer>) -> (ExpertGradients, ExpertGradients) {
    experts_of(gradients, |[fc1_weight, fc1_bias, glu_weight, glu_bias, fc2_weight, fc2_bias]| ExpertGradients {
        fc1_weight,
        fc1_bias,
        glu_weight,
        glu_bias,
        fc2_weight,
        fc2_bias,
    })
}

/// What is made of the addresses of the experts, and of the shared one.
fn experts_of<S>(all: &Parameters<Pointer>, make: impl Fn([Pointer; 6]) -> S) -> (S, S) {
    use Param::*;
    let experts = [ExpertsFc1Weight, ExpertsFc1Bias, ExpertsGluWeight, ExpertsGluBias, ExpertsFc2Weight, ExpertsFc2Bias];
    let shared = [SharedFc1Weight, SharedFc1Bias, SharedGluWeight, SharedGluBias, SharedFc2Weight, SharedFc2Bias];
    (make(experts.map(|p| all[p])), make(shared.map(|p| all[p])))
}
