//! The launches of a forward pass.

// SAFETY: what the addresses hold is the caller's promise, passed on to each launch.
#![allow(unsafe_code)]

use super::workspace::forward_space;
use super::{DeviceInput, State, StatePart, Workspace, expect_parts, weights_of};
use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::args::{Combine, ExpertsDown, ExpertsUp, GateForward, RouteForward, Splits};
use crate::gpu::carve::expect_room;
use crate::gpu::driver::{Facts, Pointer};
use crate::gpu::plan::Plan;
use crate::gpu::{Queue, combine, experts, gate, route};
use crate::parameters::Param;

/// What [`super::moe_forward`] takes.
#[derive(Clone, Debug)]
pub struct MoeForwardArgs {
    /// The layer's input.
    pub input: DeviceInput,
    /// y: a row at each `y_stride` elements.
    pub y: Pointer,
    /// At least D.
    pub y_stride: usize,
    /// What is left behind: of the sizes that [`super::state_layout`] tells. Without the experts' inner layer nothing is kept of them.
    pub state: State<Pointer>,
    /// u8 `[N]`: 0 leaves a row out of the columns' moments; none: all count.
    pub counted: Pointer,
    /// f32 `[B, E, 3]`: count, mean and M2 of each (sample, expert) column of the final weights; or none.
    pub columns: Pointer,
    /// As [`super::forward_workspace_bytes`] tells.
    pub workspace: Workspace,
}

/// The arguments of every launch of a forward pass.
#[derive(Clone, Debug)]
pub struct Forward {
    dtype: DType,
    pairs: usize,
    plan: Plan,
    gate: GateForward,
    route: RouteForward,
    up: ExpertsUp,
    down: ExpertsDown,
    combine: Combine,
}

impl Forward {
    /// Checks what can be checked without a look at device memory.
    ///
    /// # Errors
    /// When a size or a buffer is missing or too small.
    pub fn new(facts: &Facts, config: &MoeConfig, args: &MoeForwardArgs) -> Result<Self> {
        let (input, state) = (&args.input, &args.state);
        let sizes = input.check(config)?;
        super::expect_row("y", args.y, args.y_stride, config.width)?;
        expect_parts(config, input, state, state[StatePart::Inner] != 0)?;
        let (space, bytes) = forward_space(facts, config, input.dtype, &sizes, args.workspace.at)?;
        expect_room("the workspace of the forward pass", bytes, args.workspace)?;

        let parameters = super::present("the parameter", config, &input.parameters)?;
        let others = [(args.workspace.at, 0)].into_iter().chain(super::addresses(&parameters));
        let plan = super::plan(facts, config, input, &sizes, state, others);
        let pairs = super::pairs(state, &plan);
        let [rows, width, experts, top_k] = [sizes.rows, config.width, config.experts.count, config.top_k].map(|n| n as i32);
        let (token_stride, sample_stride) = input.layout.strides(input.tokens, input.samples);
        let parameter = |p: Param| parameters[p];
        let (experts_weights, shared_weights) = weights_of(&parameters);
        let activation = config.experts.activation as i32;
        let gate = GateForward {
            x: input.x,
            fc1_weight: parameter(Param::GateFc1Weight),
            fc1_bias: parameter(Param::GateFc1Bias),
            fc2_weight: parameter(Param::GateFc2Weight),
            fc2_bias: parameter(Param::GateFc2Bias),
            routed: input.routed,
            hidden: state[StatePart::Hidden],
            logits: state[StatePart::Logits],
            probabilities: state[StatePart::Probabilities],
            chosen: state[StatePart::Chosen],
            weights: state[StatePart::Weights],
            counters: space.counters,
            x_stride: input.x_stride as i64,
            rows,
            width,
            hidden_width: config.gate.hidden.map_or(0, |h| h.width as i32),
            experts,
            top_k,
            activation: config.gate.hidden.map_or(0, |h| h.activation as i32),
            renormalise: config.renormalise.into(),
        };
        let route = RouteForward {
            chosen: state[StatePart::Chosen],
            needed: input.needed,
            counted: args.counted,
            weights: state[StatePart::Weights],
            row_pairs: state[StatePart::RowPairs],
            shared_pairs: state[StatePart::SharedPairs],
            expert_offsets: state[StatePart::ExpertOffsets],
            pair_row: state[StatePart::PairRow],
            pair_weight: state[StatePart::PairWeight],
            tiles: state[StatePart::Tiles],
            columns: args.columns,
            kept: space.kept,
            counts: space.counts,
            counters: space.counters,
            tokens: input.tokens as i32,
            samples: input.samples as i32,
            token_stride: token_stride as i32,
            sample_stride: sample_stride as i32,
            experts,
            top_k,
            capacity: config.capacity_of(input.tokens, input.samples)?.unwrap_or(0) as i32,
            batch_scope: (config.capacity_scope == crate::config::CapacityScope::Batch).into(),
            tile_rows: plan.rows as i32,
        };
        let (folded, kept) = (experts::folds(config, input.dtype), state[StatePart::Inner]);
        let hidden = if folded && kept != 0 { kept } else { space.hidden };
        let up = ExpertsUp {
            x: input.x,
            experts_weights,
            shared_weights,
            pairs,
            inner: if folded { 0 } else { kept },
            glu: state[StatePart::Glu],
            arrived: space.down.arrived,
            counters: space.down.counters as i32,
            hidden,
            folded: folded.into(),
            x_stride: input.x_stride as i64,
            width,
            expert_width: config.experts.width as i32,
            experts,
            activation,
            ..Default::default()
        };
        let down = ExpertsDown {
            hidden,
            folded: folded.into(),
            experts_weights,
            shared_weights,
            pairs,
            out: space.out,
            splits: Splits { parts: space.down.parts, arrived: space.down.arrived, ..Default::default() },
            width,
            expert_width: config.experts.width as i32,
            experts,
            ..Default::default()
        };
        let combine = Combine {
            pairs: space.out,
            weight: if folded { 0 } else { state[StatePart::PairWeight] },
            row_pairs: state[StatePart::RowPairs],
            shared_pairs: state[StatePart::SharedPairs],
            plus: 0,
            minus: if config.subtract_input { input.x } else { 0 },
            needed: input.needed,
            out: args.y,
            minus_stride: input.x_stride as i64,
            out_stride: args.y_stride as i64,
            rows,
            width,
            top_k,
        };
        Ok(Self { dtype: input.dtype, pairs: sizes.pairs, plan, gate, route, up, down, combine })
    }

    /// All of it, in order.
    ///
    /// # Safety
    /// As [`super::moe_forward`].
    pub unsafe fn launch(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.gate(queue)?;
            self.route(queue)?;
            self.experts(queue)?;
            self.combine(queue)
        }
    }

    /// The gate alone.
    ///
    /// # Safety
    /// As [`super::moe_forward`].
    pub unsafe fn gate(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { gate::forward(queue, self.dtype, &self.gate) }
    }

    /// Routing alone, which takes the gate's results away: the gate has to run again before it.
    ///
    /// # Safety
    /// As [`super::moe_forward`], after the gate.
    pub unsafe fn route(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { route::forward(queue, &self.route) }
    }

    /// The experts alone.
    ///
    /// # Safety
    /// As [`super::moe_forward`], after routing.
    pub unsafe fn experts(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.up(queue)?;
            self.down(queue)
        }
    }

    /// `up` alone.
    ///
    /// # Safety
    /// As [`super::moe_forward`], after routing.
    pub unsafe fn up(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { experts::up(queue, self.dtype, self.plan.up, &self.up, self.pairs) }
    }

    /// `down` alone.
    ///
    /// # Safety
    /// As [`super::moe_forward`], after `up`.
    pub unsafe fn down(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { experts::down(queue, self.dtype, self.plan.down, &self.down, self.pairs) }
    }

    /// The sum alone.
    ///
    /// # Safety
    /// As [`super::moe_forward`], after the experts.
    pub unsafe fn combine(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { combine::rows(queue, self.dtype, &self.combine) }
    }
}
