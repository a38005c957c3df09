//! The layer and the loss over cudarc's slices: lengths, the context and where a state comes from are checked, and then it is the raw
//! level's launches on the caller's stream, which wait for nothing.

// SAFETY: every buffer is as long as the layer needs and lies in the context that launches, by the checks here; what a state says of
// pairs was written by a forward pass over an input of the same shape.
#![allow(unsafe_code)]

mod fol;

pub use fol::{
    BatchLengths, CudaFol, CudaFolBatch, CudaFolGradients, CudaFolState, CudaGate, CudaGroups, FolLengths, GradientLengths,
    GroupIds,
};

use super::Queue;
use super::driver::cuda::Cuda;
use super::driver::{Driver, Pointer, Stream};
use super::moe::{
    DeviceInput, MoeBackwardArgs, MoeForwardArgs, StatePart, Workspace, backward_workspace_bytes, carve_state,
    forward_workspace_bytes, kernels, moe_backward, moe_forward, state_layout,
};
use crate::config::MoeConfig;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result, expect_shape, product};
use crate::moe::{GradientMode, Layout};
use crate::parameters::{Param, Parameters};
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};
use std::sync::Arc;

/// A layer on a GPU.
#[derive(Debug)]
pub struct CudaMoe {
    config: MoeConfig,
    driver: Arc<Cuda>,
    stream: Arc<CudaStream>,
}

/// Which rows' output is needed, on a GPU.
#[derive(Debug)]
pub struct RowsNeeded {
    mask: CudaSlice<u8>,
    count: usize,
}

/// What a layer is given.
pub struct CudaInput<'a, T> {
    /// x `[T, B, D]` or `[B, T, D]`.
    pub x: CudaView<'a, T>,
    /// T.
    pub tokens: usize,
    /// B.
    pub samples: usize,
    /// The order of the rows.
    pub layout: Layout,
    /// u8 `[N]`: 0 leaves a row out of routing.
    pub row_mask: Option<CudaView<'a, u8>>,
    /// Whose output is needed; none: of all.
    pub rows_needed: Option<&'a RowsNeeded>,
    /// The parameters; none for those that the layer does not have.
    pub parameters: Parameters<Option<CudaView<'a, T>>>,
}

/// The gradients that come from behind a layer.
pub struct CudaUpstream<'a, T> {
    /// Like x: on y.
    pub dy: CudaView<'a, T>,
    /// `[N, E]`: on the final weights.
    pub dweights: Option<CudaView<'a, f32>>,
    /// `[N, E]`: on the probabilities.
    pub dprobabilities: Option<CudaView<'a, f32>>,
    /// `[N, E]`: on the logits.
    pub dlogits: Option<CudaView<'a, f32>>,
}

/// What forward leaves to backward, in a GPU's memory. It grows to what is needed and no further.
#[derive(Debug)]
pub struct CudaMoeState {
    block: CudaSlice<u8>,
    of: Option<Shape>,
}

/// What a state is of.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    config: MoeConfig,
    dtype: DType,
    tokens: usize,
    samples: usize,
    layout: Layout,
    needed: usize,
}

/// How long the buffers of one pass are, in elements.
#[derive(Clone, Debug)]
pub struct Lengths {
    /// x, y, dy or dx, each of which there is.
    pub like_x: Vec<usize>,
    /// The masks that there are.
    pub masks: Vec<usize>,
    /// The gradients `[N, E]` that there are.
    pub scores: Vec<usize>,
    /// Parameters, then their gradients if there are any; 0 for none.
    pub parameters: Vec<Parameters<usize>>,
}

impl Lengths {
    /// Checks them against a layer on T·B rows.
    ///
    /// # Errors
    /// Names the first that disagrees.
    pub fn check(&self, config: &MoeConfig, tokens: usize, samples: usize) -> Result<()> {
        product("x", &[tokens, samples, config.width])?;
        let each = |all: &[usize], what: &str, shape: &[usize]| all.iter().try_for_each(|&got| expect_shape(what, shape, got));
        each(&self.like_x, "x, y or a gradient on one", &[tokens, samples, config.width])?;
        each(&self.masks, "a mask of rows", &[tokens, samples])?;
        each(&self.scores, "a gradient on weights, probabilities or logits", &[tokens, samples, config.experts.count])?;
        self.parameters.iter().try_for_each(|all| {
            Param::ALL.into_iter().try_for_each(|p| match p.len(config) {
                0 => expect_shape(p.name(), &[0], all[p]),
                _ => expect_shape(p.name(), &p.shape(config), all[p]),
            })
        })
    }
}

pub(crate) fn failed(what: &str) -> impl Fn(cudarc::driver::DriverError) -> Error + '_ {
    move |why| Error::Refused(format!("{what} failed on the GPU: {why}"))
}

pub(crate) fn queue<'a>(driver: &'a Cuda, stream: &CudaStream) -> Queue<'a> {
    Queue { driver, stream: Stream(stream.cu_stream() as u64) }
}

/// What launches on that stream.
pub(crate) fn driver_of(stream: &CudaStream) -> Result<Arc<Cuda>> {
    let driver = Cuda::shared(stream.context().ordinal())?;
    match driver.context() == stream.context().cu_ctx() as u64 {
        true => Ok(driver),
        false => Err(Error::Refused("the stream must be of its GPU's primary context".into())),
    }
}

impl RowsNeeded {
    /// Those rows of `rows`, ascending.
    ///
    /// # Errors
    /// When one is beyond the last, or the GPU has no room.
    pub fn new(stream: &Arc<CudaStream>, needed: &[usize], rows: usize) -> Result<Self> {
        let mut mask = vec![0u8; rows];
        for (index, &row) in needed.iter().enumerate() {
            let place = mask.get_mut(row).filter(|place| **place == 0);
            let expected = || format!("below {rows}, each once");
            let wrong = || Error::Value { what: "the rows needed", expected: expected(), index, got: row.to_string() };
            *place.ok_or_else(wrong)? = 1;
        }
        Ok(Self { mask: stream.clone_htod(&mask).map_err(failed("the upload of a mask"))?, count: needed.len() })
    }
}

impl CudaMoeState {
    /// Of nothing yet.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self { block: stream.alloc_zeros(1).map_err(failed("an allocation"))?, of: None })
    }

    /// The final weights `[N, E]`, which a loss may read.
    ///
    /// # Errors
    /// When no forward pass left any.
    pub fn weights(&self) -> Result<CudaView<'_, f32>> {
        let bytes = self.part(StatePart::Weights)?;
        // SAFETY: any bits are an f32, and a part is aligned as one.
        unsafe { bytes.transmute(bytes.len() / 4) }.ok_or_else(|| Error::Refused("the state has no final weights".into()))
    }

    /// The bytes of one part.
    ///
    /// # Errors
    /// When no forward pass left any.
    pub fn part(&self, part: StatePart) -> Result<CudaView<'_, u8>> {
        let s = self.of.as_ref().ok_or_else(|| Error::Refused("no forward pass has left a state yet".into()))?;
        let layout = state_layout(&s.config, s.dtype, s.tokens, s.samples, s.needed, true)?;
        // From an address of 256, so that a part's own is never 0.
        let at = carve_state(&layout, 256)?.0[part].saturating_sub(256) as usize;
        Ok(self.block.slice(at..at + layout[part]))
    }
}

impl CudaMoe {
    /// A layer on the GPU of that stream, which every launch goes to; compiles its kernels for `dtype`, or finds them.
    ///
    /// # Errors
    /// When the configuration cannot be, the stream is not of the GPU's primary context, or the kernels cannot be had.
    pub fn new(config: MoeConfig, dtype: DType, stream: &Arc<CudaStream>) -> Result<Self> {
        config.check()?;
        let driver = driver_of(stream)?;
        driver.prepare(&kernels(driver.facts().arch, dtype))?;
        Ok(Self { config, driver, stream: stream.clone() })
    }

    /// Bytes of the workspace that a forward pass, and that a backward pass needs.
    ///
    /// # Errors
    /// When the sizes are too large.
    pub fn workspace_bytes<T: Element>(&self, input: &CudaInput<'_, T>) -> Result<(usize, usize)> {
        let (facts, config, Shape { dtype, tokens, samples, needed, .. }) =
            (self.driver.facts(), &self.config, self.shape(input));
        let forward = forward_workspace_bytes(facts, config, dtype, tokens, samples, needed)?;
        Ok((forward, backward_workspace_bytes(facts, config, dtype, tokens, samples, needed)?))
    }

    /// y, and what backward needs.
    ///
    /// # Errors
    /// When a buffer's length disagrees, or a launch fails.
    pub fn forward<T: Element>(
        &self,
        input: &CudaInput<'_, T>,
        y: &mut CudaViewMut<'_, T>,
        state: &mut CudaMoeState,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        self.lengths(input, &[y.len()], &[]).check(&self.config, input.tokens, input.samples)?;
        let shape = self.shape(input);
        let layout = state_layout(&self.config, T::DTYPE, input.tokens, input.samples, shape.needed, true)?;
        let bytes = carve_state(&layout, 0)?.1;
        state.of = None;
        if state.block.len() < bytes {
            state.block = self.stream.alloc_zeros(bytes).map_err(failed("an allocation"))?;
        }
        let mut uses = Uses::of(&self.stream);
        let args = MoeForwardArgs {
            input: self.raw(input, &shape, &mut uses)?,
            y: uses.write(y)?,
            y_stride: self.config.width,
            state: carve_state(&layout, uses.write(&mut state.block)?)?.0,
            // A loss is given weights with a mask of its own (`CudaGate`), which the columns' moments would have to be of.
            counted: 0,
            columns: 0,
            workspace: Workspace { bytes: workspace.len(), at: uses.write(workspace)? },
        };
        // SAFETY: as above.
        unsafe { moe_forward(&queue(&self.driver, &self.stream), &self.config, &args)? };
        drop(uses);
        state.of = Some(shape);
        Ok(())
    }

    /// The gradients of x and of every parameter, these in `G`, the layer's dtype or f32.
    ///
    /// # Errors
    /// When a buffer's length disagrees, the state is of another input, or a launch fails.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of the caller's")]
    pub fn backward<T: Element, G: Element>(
        &self,
        input: &CudaInput<'_, T>,
        state: &CudaMoeState,
        upstream: &CudaUpstream<'_, T>,
        dx: &mut CudaViewMut<'_, T>,
        gradients: &mut Parameters<Option<CudaViewMut<'_, G>>>,
        mode: GradientMode,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        let optional = [&upstream.dweights, &upstream.dprobabilities, &upstream.dlogits];
        let scores: Vec<usize> = optional.iter().filter_map(|view| view.as_ref().map(DeviceSlice::len)).collect();
        let mut lengths = self.lengths(input, &[upstream.dy.len(), dx.len()], &scores);
        lengths.parameters.push(gradients.map(|view| view.as_ref().map_or(0, DeviceSlice::len)));
        lengths.check(&self.config, input.tokens, input.samples)?;
        let shape = self.shape(input);
        if state.of.as_ref() != Some(&shape) {
            return Err(Error::Refused("the state is not that of a forward pass of this layer over such an input".into()));
        }
        let layout = state_layout(&self.config, T::DTYPE, input.tokens, input.samples, shape.needed, true)?;
        let mut uses = Uses::of(&self.stream);
        let [dweights, dprobabilities, dlogits] = crate::error::all(optional.map(|view| uses.read_or_none(view)))?;
        let gradients = gradients.try_map_mut(|view| view.as_mut().map_or(Ok(0), |view| uses.write(view)))?;
        let args = MoeBackwardArgs {
            input: self.raw(input, &shape, &mut uses)?,
            state: carve_state(&layout, uses.read(&state.block)?)?.0,
            dy: uses.read(&upstream.dy)?,
            dy_stride: self.config.width,
            dweights,
            dprobabilities,
            dlogits,
            dx: uses.write(dx)?,
            dx_stride: self.config.width,
            gradients,
            gradient_dtype: G::DTYPE,
            mode,
            workspace: Workspace { bytes: workspace.len(), at: uses.write(workspace)? },
        };
        // SAFETY: as above.
        unsafe { moe_backward(&queue(&self.driver, &self.stream), &self.config, &args) }
    }

    fn shape<T: Element>(&self, input: &CudaInput<'_, T>) -> Shape {
        let &CudaInput { tokens, samples, layout, .. } = input;
        let needed = input.rows_needed.map_or(tokens.saturating_mul(samples), |rows| rows.count);
        Shape { config: self.config.clone(), dtype: T::DTYPE, tokens, samples, layout, needed }
    }

    fn lengths<T: Element>(&self, input: &CudaInput<'_, T>, like_x: &[usize], scores: &[usize]) -> Lengths {
        let masks = [input.row_mask.as_ref().map(DeviceSlice::len), input.rows_needed.map(|rows| rows.mask.len())];
        Lengths {
            like_x: [&[input.x.len()], like_x].concat(),
            masks: masks.into_iter().flatten().collect(),
            scores: scores.to_vec(),
            parameters: vec![input.parameters.map(|view| view.as_ref().map_or(0, DeviceSlice::len))],
        }
    }

    fn raw<'a, T: Element>(&self, input: &'a CudaInput<'_, T>, shape: &Shape, uses: &mut Uses<'a>) -> Result<DeviceInput> {
        Ok(DeviceInput {
            dtype: T::DTYPE,
            tokens: input.tokens,
            samples: input.samples,
            layout: input.layout,
            x: uses.read(&input.x)?,
            x_stride: self.config.width,
            routed: uses.read_or_none(&input.row_mask)?,
            needed: input.rows_needed.map_or(Ok(0), |rows| uses.read(&rows.mask))?,
            needed_rows: shape.needed,
            parameters: Parameters::try_from_fn(|p| uses.read_or_none(&input.parameters[p]))?,
        })
    }
}

/// The buffers of a pass: cudarc is told of each that the stream has used it when this goes, which is behind the launches.
pub(crate) struct Uses<'a> {
    stream: &'a CudaStream,
    until: Vec<SyncOnDrop<'a>>,
}

impl<'a> Uses<'a> {
    pub(crate) fn of(stream: &'a Arc<CudaStream>) -> Self {
        Self { stream, until: vec![] }
    }

    pub(crate) fn read<V>(&mut self, view: &'a impl DevicePtr<V>) -> Result<Pointer> {
        self.same_context(view.stream())?;
        let (at, until) = view.device_ptr(self.stream);
        self.until.push(until);
        Ok(at)
    }

    fn read_or_none<V>(&mut self, view: &'a Option<CudaView<'_, V>>) -> Result<Pointer> {
        view.as_ref().map_or(Ok(0), |view| self.read(view))
    }

    pub(crate) fn write<V>(&mut self, view: &'a mut impl DevicePtrMut<V>) -> Result<Pointer> {
        self.same_context(view.stream())?;
        let (at, until) = view.device_ptr_mut(self.stream);
        self.until.push(until);
        Ok(at)
    }

    fn same_context(&self, stream: &CudaStream) -> Result<()> {
        match stream.context().cu_ctx() == self.stream.context().cu_ctx() {
            true => Ok(()),
            false => Err(Error::Refused("every buffer must be of the stream's GPU".into())),
        }
    }
}
