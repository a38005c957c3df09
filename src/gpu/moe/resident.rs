//! A layer's buffers on a device, made from the host's slices: what `Moe` runs on, and what tests and benchmarks launch from.

use super::{
    Backward, DeviceInput, Forward, MoeBackwardArgs, MoeForwardArgs, Sizes, State, Workspace, backward_workspace_bytes,
    forward_workspace_bytes, kernels, state_layout,
};
use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::Result;
use crate::gpu::Queue;
use crate::gpu::buffer::Buffer;
use crate::gpu::driver::{Driver, Pointer};
use crate::gpu::plan::Plan;
use crate::gpu::session::Session;
use crate::moe::{GradientMode, Layout, MoeInput, Upstream};
use crate::parameters::{Param, Parameters};
use std::sync::Arc;

/// A layer's input on a device, and a stream.
#[derive(Debug)]
pub struct Resident<T> {
    pub(super) config: MoeConfig,
    pub(super) tokens: usize,
    pub(super) samples: usize,
    layout: Layout,
    /// The rows needed, ascending.
    pub(super) needed_rows: Vec<u32>,
    x: Buffer<T>,
    parameters: Parameters<Buffer<T>>,
    routed: Option<Buffer<u8>>,
    needed: Option<Buffer<u8>>,
    pub(super) session: Session,
}

/// What a forward pass over a [`Resident`] writes, and its launches.
#[derive(Debug)]
pub struct ResidentForward<T> {
    /// `[N, D]`.
    pub y: Buffer<T>,
    /// They write y and the state.
    pub launches: Forward,
    _workspace: Buffer<u8>,
}

/// What a backward pass over a [`Resident`] reads and writes, and its launches.
#[derive(Debug)]
pub struct ResidentBackward<T, G> {
    /// `[N, D]`.
    pub dx: Buffer<T>,
    /// Of every parameter.
    pub gradients: Parameters<Buffer<G>>,
    /// They write dx and the gradients.
    pub launches: Backward,
    _upstream: (Buffer<T>, [Option<Buffer<u8>>; 3]),
    _workspace: Buffer<u8>,
}

impl<T: Element> Resident<T> {
    /// Uploads a layer's parameters and input, and makes its kernels ready.
    pub fn new(
        driver: &Arc<dyn Driver>,
        config: &MoeConfig,
        parameters: &Parameters<&[T]>,
        input: &MoeInput<'_, T>,
    ) -> Result<Self> {
        super::expect_dtype(T::DTYPE)?;
        driver.prepare(&kernels(driver.facts().arch, T::DTYPE))?;
        let session = Session::new(driver)?;
        let mask = |of: &dyn Fn(usize) -> bool| {
            let bytes: Vec<u8> = (0..input.rows()).map(|row| of(row).into()).collect();
            session.upload(&bytes)
        };
        Ok(Self {
            config: config.clone(),
            tokens: input.tokens,
            samples: input.samples,
            layout: input.layout,
            needed_rows: (0..input.rows()).filter(|&row| input.is_needed(row)).map(|row| row as u32).collect(),
            x: session.upload(input.x)?,
            parameters: Parameters::try_from_fn(|p| session.upload(parameters[p]))?,
            routed: input.row_mask.map(|_| mask(&|row| input.is_routed(row))).transpose()?,
            needed: input.rows_needed.map(|_| mask(&|row| input.is_needed(row))).transpose()?,
            session,
        })
    }

    /// Where to launch.
    pub fn queue(&self) -> Queue<'_> {
        self.session.queue()
    }

    /// N.
    pub fn rows(&self) -> usize {
        self.tokens * self.samples
    }

    /// How its experts' products are cut.
    pub fn plan(&self) -> Result<Plan> {
        let sizes = Sizes::new(&self.config, self.tokens, self.samples, self.needed_rows.len())?;
        Ok(Plan::new(self.queue().driver.facts(), &self.config, T::DTYPE, &sizes))
    }

    /// Its addresses.
    pub fn input(&self) -> DeviceInput {
        let or_none = |mask: &Option<Buffer<u8>>| mask.as_ref().map_or(0, Buffer::pointer);
        DeviceInput {
            dtype: T::DTYPE,
            tokens: self.tokens,
            samples: self.samples,
            layout: self.layout,
            x: self.x.pointer(),
            x_stride: self.config.width,
            routed: or_none(&self.routed),
            needed: or_none(&self.needed),
            needed_rows: self.needed_rows.len(),
            parameters: self.parameters.map(Buffer::pointer),
        }
    }

    /// A state that holds nothing yet; with what a backward pass needs of the experts, or without.
    pub fn new_state(&self, saved: bool) -> Result<State<Buffer<u8>>> {
        let needed = self.needed_rows.len();
        let layout = state_layout(&self.config, T::DTYPE, self.tokens, self.samples, needed, saved)?;
        State::try_from_fn(|part| self.session.empty(layout[part]))
    }

    /// A forward pass into `state`.
    pub fn forward(&self, state: &State<Buffer<u8>>) -> Result<ResidentForward<T>> {
        let (facts, needed) = (self.queue().driver.facts().clone(), self.needed_rows.len());
        let bytes = forward_workspace_bytes(&facts, &self.config, T::DTYPE, self.tokens, self.samples, needed)?;
        let workspace = self.session.empty(bytes)?;
        let y = self.session.empty(self.x.len())?;
        let args = MoeForwardArgs {
            input: self.input(),
            y: y.pointer(),
            y_stride: self.config.width,
            state: state.map(Buffer::pointer),
            counted: 0,
            columns: 0,
            workspace: Workspace { at: workspace.pointer(), bytes },
        };
        Ok(ResidentForward { y, launches: Forward::new(&facts, &self.config, &args)?, _workspace: workspace })
    }

    /// A backward pass from `state`; gradients are added to what is in `before`, where there is something.
    pub fn backward<G: Element>(
        &self,
        state: &State<Buffer<u8>>,
        upstream: &Upstream<'_, T>,
        before: Option<&Parameters<&[G]>>,
    ) -> Result<ResidentBackward<T, G>> {
        let (facts, needed) = (self.queue().driver.facts().clone(), self.needed_rows.len());
        let bytes = backward_workspace_bytes(&facts, &self.config, T::DTYPE, self.tokens, self.samples, needed)?;
        let workspace = self.session.empty(bytes)?;
        let optional = |values: Option<&[T::Wide]>| values.map(|v| self.session.upload(bytemuck::cast_slice(v))).transpose();
        let [dweights, dprobabilities, dlogits] =
            crate::error::all([upstream.dweights, upstream.dprobabilities, upstream.dlogits].map(optional))?;
        let address = |buffer: &Option<Buffer<u8>>| buffer.as_ref().map_or(0, Buffer::pointer) as Pointer;
        let dy = self.session.upload(upstream.dy)?;
        let dx = self.session.empty(self.x.len())?;
        let gradients = Parameters::try_from_fn(|p: Param| match before {
            Some(before) => self.session.upload(before[p]),
            None => self.session.empty(p.len(&self.config)),
        })?;
        let args = MoeBackwardArgs {
            input: self.input(),
            state: state.map(Buffer::pointer),
            dy: dy.pointer(),
            dy_stride: self.config.width,
            dweights: address(&dweights),
            dprobabilities: address(&dprobabilities),
            dlogits: address(&dlogits),
            dx: dx.pointer(),
            dx_stride: self.config.width,
            gradients: gradients.map(Buffer::pointer),
            gradient_dtype: G::DTYPE,
            mode: if before.is_some() { GradientMode::Accumulate } else { GradientMode::Overwrite },
            workspace: Workspace { at: workspace.pointer(), bytes },
        };
        let launches = Backward::new(&facts, &self.config, &args)?;
        let upstream = (dy, [dweights, dprobabilities, dlogits]);
        Ok(ResidentBackward { dx, gradients, launches, _upstream: upstream, _workspace: workspace })
    }
}
