//! The loss's passes on candle's CUDA tensors.

// SAFETY: every buffer is as long as the loss needs and lies in the context that launches, by the checks here; ids were checked before
// they were uploaded; backward reads what a forward pass over this very tensor left.
#![allow(unsafe_code)]

use super::{block, driver, empty, like, on_gpu, read, write};
use crate::candle::fol::{Frame, Shapes};
use crate::candle::wrap;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::fol::{FolConfig, FolState, check_ids};
use crate::gpu::driver::Driver;
use crate::gpu::driver::cuda::Cuda;
use crate::gpu::fol::{Memory, backward, forward, kernels, read_state};
use crate::gpu::moments::COUNTERS;
use crate::gpu::safe::{BatchLengths, FolLengths, Uses, failed, queue};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType as Number, Layout as Strides, Shape, Tensor, bail};
use cudarc::driver::{CudaSlice, CudaStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One application of a loss.
#[derive(Debug)]
pub(in crate::candle) struct Pass {
    config: FolConfig,
    frame: Frame,
    scales: Vec<f64>,
    left: Mutex<Option<Left>>,
}

/// What a forward pass leaves.
#[derive(Debug)]
struct Left {
    driver: Arc<Cuda>,
    stream: Arc<CudaStream>,
    masks: CudaSlice<u8>,
    ids: CudaSlice<i32>,
    block: CudaSlice<u8>,
}

impl Pass {
    pub fn new(config: &FolConfig, frame: Frame, scales: Vec<f64>) -> Self {
        Self { config: config.clone(), frame, scales, left: Mutex::default() }
    }

    fn left(&self) -> MutexGuard<'_, Option<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what the kernels rely on.
    fn check(&self) -> Result<()> {
        let of_batch = |batch: &Shapes| BatchLengths {
            samples: batch.samples,
            similarity: batch.samples * batch.samples,
            gates: batch.gates.iter().map(|g| (g.experts, g.rows * g.experts, g.row_mask.as_ref().map(Vec::len))).collect(),
        };
        let batches = std::iter::once(&self.frame.batch).chain(&self.frame.separate).map(of_batch).collect();
        let ids = self.frame.ids.as_ref();
        FolLengths { batches, ids: ids.map(|(ids, count)| (ids.len(), *count)) }.check()?;
        ids.map_or(Ok(()), |(ids, count)| check_ids(ids, *count))
    }

    /// The total, f32.
    fn forward(&self, flat: &CudaStorage, layout: &Strides) -> Result<CudaStorage> {
        self.check()?;
        let device = flat.device();
        let stream = device.cuda_stream();
        let driver = driver(&stream)?;
        driver.prepare(&kernels())?;
        // One element at least, so that there is an address.
        let up = |mut masks: Vec<u8>| {
            masks.push(0);
            stream.clone_htod(&masks).map_err(failed("the upload of a mask"))
        };
        let (masks, mut ids) = (up(self.frame.masks())?, self.frame.narrow_ids());
        ids.push(-1);
        let ids = stream.clone_htod(&ids).map_err(failed("the upload of group ids"))?;
        let offsets = Memory::new(driver.facts(), &self.config, &self.frame.problem(0, 0, 1, &self.scales), 0)?;
        let mut block = block(&stream, offsets.bytes)?;
        // The counters, which come first, hold 0 before the first pass.
        stream.memset_zeros(&mut block.slice_mut(0..4 * COUNTERS)).map_err(failed("a fill"))?;
        {
            let mut uses = Uses::of(&stream);
            let flat = read(&mut uses, flat, layout, DType::F32)?.0;
            let problem = self.frame.problem(flat, uses.read(&masks)?, uses.read(&ids)?, &self.scales);
            let memory = Memory::new(driver.facts(), &self.config, &problem, uses.write(&mut block)?)?;
            // SAFETY: as above.
            unsafe { forward(&queue(&driver, &stream), &self.config, &problem, &memory)? };
        }
        let at = offsets.terms as usize;
        let mut total = empty(device, 1, DType::F64)?;
        // SAFETY: any bits are an f64, and the terms are aligned as one.
        let found = unsafe { block.slice(at..at + 8).transmute::<f64>(1) };
        let found = found.ok_or_else(|| Error::Refused("the loss left no total".into()))?;
        stream.memcpy_dtod(&found, total.as_cuda_slice_mut::<f64>()?).map_err(failed("a copy"))?;
        *self.left() = Some(Left { driver, stream: stream.clone(), masks, ids, block });
        Ok(total.to_dtype(&Strides::contiguous(1), Number::F32)?)
    }

    /// What the forward pass found, once the stream has passed it.
    pub fn state(&self) -> Result<FolState> {
        let left = self.left();
        let Some(left) = left.as_ref() else { return Err(Error::Refused("the loss's forward pass has not run".into())) };
        let problem = self.frame.problem(0, 0, 1, &self.scales);
        let offsets = Memory::new(left.driver.facts(), &self.config, &problem, 0)?;
        self.frame.members(|groups| {
            read_state(groups, &problem, &offsets, |to| {
                left.stream.memcpy_dtoh(&left.block.slice(0..to.len()), to).map_err(failed("a copy to the host"))?;
                left.stream.synchronize().map_err(failed("a wait"))
            })
        })
    }

    /// The gradient of the total on the flat tensor.
    fn backward(&self, flat: &Tensor) -> Result<Tensor> {
        let mut left = self.left();
        let Some(Left { driver, stream, masks, ids, block }) = left.as_mut() else {
            return Err(Error::Refused("a loss's backward pass needs its forward pass".into()));
        };
        let (storage, layout) = flat.storage_and_layout();
        let device = on_gpu(&storage)?.device();
        let zeros = |len: usize, dtype| device.zeros_impl(&Shape::from(len), dtype);
        let (mut dflat, mut dscale) = (zeros(flat.elem_count(), Number::F32)?, zeros(self.scales.len(), Number::F64)?);
        {
            let mut uses = Uses::of(stream);
            let at = read(&mut uses, on_gpu(&storage)?, layout, DType::F32)?.0;
            let problem = self.frame.problem(at, uses.read(masks)?, uses.read(ids)?, &self.scales);
            let memory = Memory::new(driver.facts(), &self.config, &problem, uses.write(block)?)?;
            let dscale = uses.write(dscale.as_cuda_slice_mut::<f64>()?)?;
            let gradients = self.frame.gradients(write(&mut uses, &mut dflat)?, dscale);
            // SAFETY: as above.
            unsafe { backward(&queue(driver, stream), &self.config, &problem, &memory, 1.0, &gradients)? };
        }
        let dscale = dscale.to_dtype(&Strides::contiguous(self.scales.len()), Number::F32)?;
        let (from, to) = (dscale.as_cuda_slice::<f32>()?, dflat.as_cuda_slice_mut::<f32>()?);
        for (number, at) in self.frame.scales_at().into_iter().enumerate() {
            let (from, mut to) = (from.slice(number..number + 1), to.slice_mut(at..at + 1));
            stream.memcpy_dtod(&from, &mut to).map_err(failed("a copy"))?;
        }
        Ok(like(dflat, flat))
    }
}

/// The flat tensor of a [`Frame`] -> the total.
pub(in crate::candle) struct Op(pub Arc<Pass>);

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "fol"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Strides) -> candle_core::Result<(CpuStorage, Shape)> {
        bail!("the flat tensor must be on the GPU")
    }

    fn cuda_fwd(&self, flat: &CudaStorage, layout: &Strides) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((self.0.forward(flat, layout).map_err(wrap)?, Shape::from(())))
    }

    fn bwd(&self, flat: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // The gradient from behind stays on the GPU.
        self.0.backward(flat).map_err(wrap)?.broadcast_mul(upstream).map(Some)
    }
}
