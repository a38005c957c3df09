//! The launches of a backward pass.

// SAFETY: what the addresses hold is the caller's promise, passed on to each launch.
#![allow(unsafe_code)]

use super::workspace::backward_space;
use super::{DeviceInput, State, StatePart, Workspace, expect_parts, gradients_of, weights_of};
use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::args::{
    Combine, ExpertsDfc1, ExpertsDfc2, ExpertsDinner, ExpertsDx, ExpertsMerged, GateBackwardRows, GateBackwardWeights,
    RouteBackward, Splits,
};
use crate::gpu::carve::expect_room;
use crate::gpu::driver::{Facts, Pointer};
use crate::gpu::plan::Plan;
use crate::gpu::{Queue, combine, experts, gate, route};
use crate::moe::GradientMode;
use crate::parameters::{Param, Parameters};

/// What [`super::moe_backward`] takes.
#[derive(Clone, Debug)]
pub struct MoeBackwardArgs {
    /// The layer's input, as forward had it.
    pub input: DeviceInput,
    /// What forward left.
    pub state: State<Pointer>,
    /// The gradient on y: a row at each `dy_stride` elements.
    pub dy: Pointer,
    /// At least D.
    pub dy_stride: usize,
    /// f32 `[N, E]`: the gradient on the final weights; or none.
    pub dweights: Pointer,
    /// f32 `[N, E]`: on the probabilities; or none.
    pub dprobabilities: Pointer,
    /// f32 `[N, E]`: on the logits; or none.
    pub dlogits: Pointer,
    /// The gradient on x: a row at each `dx_stride` elements.
    pub dx: Pointer,
    /// At least D.
    pub dx_stride: usize,
    /// The parameters' gradients.
    pub gradients: Parameters<Pointer>,
    /// f32 or the layer's dtype.
    pub gradient_dtype: DType,
    /// What to do with what the gradients already hold.
    pub mode: GradientMode,
    /// As [`super::backward_workspace_bytes`] tells.
    pub workspace: Workspace,
}

/// The arguments of every launch of a backward pass.
#[derive(Clone, Debug)]
pub struct Backward {
    dtype: DType,
    pairs: usize,
    plan: Plan,
    dinner: ExpertsDinner,
    dfc2: ExpertsDfc2,
    dx: ExpertsDx,
    dfc1: ExpertsDfc1,
    route: RouteBackward,
    gate_rows: GateBackwardRows,
    gate_weights: GateBackwardWeights,
    combine: Combine,
}

impl Backward {
    /// Checks what can be checked without a look at device memory.
    ///
    /// # Errors
    /// When a size or a buffer is missing or too small.
    pub fn new(facts: &Facts, config: &MoeConfig, args: &MoeBackwardArgs) -> Result<Self> {
        let (input, state) = (&args.input, &args.state);
        let sizes = input.check(config)?;
        super::expect_row("dy", args.dy, args.dy_stride, config.width)?;
        super::expect_row("dx", args.dx, args.dx_stride, config.width)?;
        let parameters = super::present("the parameter", config, &input.parameters)?;
        let gradients = super::present("the gradient of", config, &args.gradients)?;
        expect_parts(config, input, state, true)?;
        if ![DType::F32, input.dtype].contains(&args.gradient_dtype) {
            let expected = format!("f32 or the layer's {}", input.dtype);
            return Err(Error::config("the gradients' dtype", expected, args.gradient_dtype));
        }
        let (space, bytes) = backward_space(facts, config, input.dtype, &sizes, args.workspace.at)?;
        expect_room("the workspace of the backward pass", bytes, args.workspace)?;

        let others = [(args.workspace.at, 0), (args.dy, args.dy_stride)].into_iter();
        let others = others.chain(super::addresses(&parameters)).chain(super::addresses(&gradients));
        let plan = super::plan(facts, config, input, &sizes, state, others);
        let pairs = super::pairs(state, &plan);
        let [rows, width, experts, top_k] = [sizes.rows, config.width, config.experts.count, config.top_k].map(|n| n as i32);
        let (expert_width, activation) = (config.experts.width as i32, config.experts.activation as i32);
        let (x_stride, dy_stride) = (input.x_stride as i64, args.dy_stride as i64);
        let hidden_width = config.gate.hidden.map_or(0, |h| h.width as i32);
        let gate_activation = config.gate.hidden.map_or(0, |h| h.activation as i32);
        let gradient_f32 = i32::from(args.gradient_dtype == DType::F32);
        let accumulate = i32::from(args.mode == GradientMode::Accumulate);
        let has_shared = config.shared_expert.into();
        let parts = experts::parts(config.experts.width, plan.dinner) as i32;
        let (experts_weights, shared_weights) = weights_of(&parameters);
        let (experts_gradients, shared_gradients) = gradients_of(&gradients);
        let parameter = |p: Param| parameters[p];
        let gradient = |p: Param| gradients[p];

        let (folded, inner) = (experts::folds(config, input.dtype), state[StatePart::Inner]);
        let weighted = if folded { inner } else { space.weighted };
        let dinner = ExpertsDinner {
            dy: args.dy,
            experts_weights,
            shared_weights,
            pairs,
            inner,
            folded: folded.into(),
            glu: state[StatePart::Glu],
            dinner: space.dinner,
            dglu: space.dglu,
            weighted: if folded { 0 } else { weighted },
            dweight_parts: space.dweight_parts,
            arrived: space.dx.arrived,
            counters: space.dx.counters as i32,
            dy_stride,
            width,
            expert_width,
            experts,
            activation,
            parts,
            ..Default::default()
        };
        let dfc2 = ExpertsDfc2 {
            dy: args.dy,
            weighted,
            pairs,
            experts_gradients,
            shared_gradients,
            dy_stride,
            width,
            expert_width,
            experts,
            gradient_f32,
            accumulate,
            has_shared,
            ..Default::default()
        };
        let dx = ExpertsDx {
            dinner: space.dinner,
            dglu: space.dglu,
            experts_weights,
            shared_weights,
            pairs,
            dx: space.dpairs,
            splits: Splits { parts: space.dx.parts, arrived: space.dx.arrived, ..Default::default() },
            width,
            expert_width,
            experts,
            ..Default::default()
        };
        let dfc1 = ExpertsDfc1 {
            dinner: space.dinner,
            dglu: space.dglu,
            x: input.x,
            pairs,
            experts_gradients,
            shared_gradients,
            x_stride,
            width,
            expert_width,
            experts,
            gradient_f32,
            accumulate,
            has_shared,
            ..Default::default()
        };
        let route = RouteBackward {
            probabilities: state[StatePart::Probabilities],
            weights: state[StatePart::Weights],
            chosen: state[StatePart::Chosen],
            row_pairs: state[StatePart::RowPairs],
            dweight_parts: space.dweight_parts,
            dy: args.dy,
            fc2_bias: parameter(Param::ExpertsFc2Bias),
            dweights: args.dweights,
            dprobabilities: args.dprobabilities,
            dlogits_in: args.dlogits,
            dlogits: space.dlogits,
            dy_stride,
            rows,
            width,
            experts,
            top_k,
            parts,
            renormalise: config.renormalise.into(),
        };
        let gate_rows = GateBackwardRows {
            dlogits: space.dlogits,
            hidden: state[StatePart::Hidden],
            fc1_weight: parameter(Param::GateFc1Weight),
            fc2_weight: parameter(Param::GateFc2Weight),
            dhidden: space.dhidden,
            dx: space.dgate,
            counters: space.gate_counters,
            rows,
            width,
            hidden_width,
            experts,
            activation: gate_activation,
            tiles: space.gate.tiles as i32,
        };
        let gate_weights = GateBackwardWeights {
            x: input.x,
            dlogits: space.dlogits,
            hidden: state[StatePart::Hidden],
            dhidden: space.dhidden,
            dfc1_weight: gradient(Param::GateFc1Weight),
            dfc1_bias: gradient(Param::GateFc1Bias),
            dfc2_weight: gradient(Param::GateFc2Weight),
            dfc2_bias: gradient(Param::GateFc2Bias),
            parts: space.gate_parts,
            counters: space.gate_counters,
            x_stride,
            rows,
            width,
            hidden_width,
            experts,
            activation: gate_activation,
            gradient_f32,
            accumulate,
            splits: space.gate.splits as i32,
        };
        let combine = Combine {
            pairs: space.dpairs,
            weight: 0,
            row_pairs: state[StatePart::RowPairs],
            shared_pairs: state[StatePart::SharedPairs],
            plus: space.dgate,
            minus: if config.subtract_input { args.dy } else { 0 },
            needed: input.needed,
            out: args.dx,
            minus_stride: dy_stride,
            out_stride: args.dx_stride as i64,
            rows,
            width,
            top_k,
        };
        Ok(Self { dtype: input.dtype, pairs: sizes.pairs, plan, dinner, dfc2, dx, dfc1, route, gate_rows, gate_weights, combine })
    }

    /// With a gate that is no part of the layer: its share is left out of the gradient of x.
    #[cfg(feature = "cli")]
    pub(crate) fn without_gate(mut self) -> Self {
        self.combine.plus = 0;
        self
    }

    /// All of it, in order.
    ///
    /// # Safety
    /// As [`super::moe_backward`].
    pub unsafe fn launch(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.experts(queue)?;
            self.route(queue)?;
            self.gate(queue)?;
            self.combine(queue)
        }
    }

    /// The experts alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`].
    pub unsafe fn experts(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.dinner(queue)?;
            if self.plan.merges() {
                return self.merged(queue);
            }
            self.dfc2(queue)?;
            self.dx(queue)?;
            self.dfc1(queue)
        }
    }

    /// `dinner` alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after forward.
    pub unsafe fn dinner(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { experts::dinner(queue, self.dtype, self.plan.dinner, &self.dinner, self.pairs) }
    }

    /// `dfc2` alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after `dinner`.
    pub unsafe fn dfc2(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { experts::dfc2(queue, self.dtype, self.plan.dfc2, &self.dfc2, self.pairs) }
    }

    /// `dx` alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after `dfc2`.
    pub unsafe fn dx(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { experts::dx(queue, self.dtype, self.plan.dx, &self.dx, self.pairs) }
    }

    /// `dfc1` alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after `dx`.
    pub unsafe fn dfc1(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { experts::dfc1(queue, self.dtype, self.plan.dfc1, &self.dfc1, self.pairs) }
    }

    /// Whether `dfc2`, `dfc1` and `dx` are one launch.
    #[cfg(feature = "cli")]
    pub(crate) fn merges(&self) -> bool {
        self.plan.merges()
    }

    /// `dfc2`, `dfc1` and `dx` in one launch.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after `dinner`, and where the plan merges them.
    pub unsafe fn merged(&self, queue: &Queue<'_>) -> Result<()> {
        let args = ExpertsMerged { dfc2: self.dfc2, dfc1: self.dfc1, dx: self.dx };
        // SAFETY: the caller's promise.
        unsafe { experts::merged(queue, self.dtype, self.plan.dx, &args, self.pairs) }
    }

    /// Routing alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after the experts.
    pub unsafe fn route(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { route::backward(queue, self.dtype, &self.route) }
    }

    /// The gate alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after routing.
    pub unsafe fn gate(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            gate::backward_rows(queue, self.dtype, &self.gate_rows)?;
            gate::backward_weights(queue, self.dtype, &self.gate_weights)
        }
    }

    /// The sum alone.
    ///
    /// # Safety
    /// As [`super::moe_backward`], after the gate.
    pub unsafe fn combine(&self, queue: &Queue<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { combine::rows(queue, self.dtype, &self.combine) }
    }
}
