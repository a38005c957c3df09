//! The layer's passes on candle's CUDA tensors.

// SAFETY: every buffer is as long as the layer needs and lies in the context that launches, by the checks here; the state is that of a
// forward pass over these very tensors.
#![allow(unsafe_code)]

use super::{block, driver, dtype, empty, like, on_gpu, read, write};
use crate::candle::MoeRows;
use crate::candle::addresses::moe::{Gradients, Inputs, Left, Rows};
use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::driver::Driver;
use crate::gpu::driver::cuda::Cuda;
use crate::gpu::moe::{Workspace, kernels};
use crate::gpu::safe::{Uses, failed, queue};
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout as Strides, Tensor};
use cudarc::driver::{CudaSlice, CudaStream};
use std::sync::Arc;

/// What a forward pass leaves for the backward pass, beside what the gate said.
pub(in crate::candle) struct State {
    driver: Arc<Cuda>,
    stream: Arc<CudaStream>,
    rows: Rows,
    masks: Masks,
    block: CudaSlice<u8>,
}

/// u8 [N] each, where there is one.
struct Masks {
    routed: Option<CudaSlice<u8>>,
    needed: Option<CudaSlice<u8>>,
}

impl Masks {
    /// Checks them, and takes them to the GPU: all that a pass brings from the host.
    fn new(stream: &Arc<CudaStream>, rows: &MoeRows, count: usize) -> Result<Self> {
        let up = |mask: Vec<u8>| stream.clone_htod(&mask).map_err(failed("the upload of a mask"));
        let routed = rows.row_mask.as_ref().map(|mask| {
            crate::error::expect_shape("the row mask", &[count], mask.len())?;
            up(mask.iter().map(|&counts| counts.into()).collect())
        });
        let needed = rows.rows_needed.as_ref().map(|needed| {
            let mut mask = vec![0u8; count];
            for (index, &row) in needed.iter().enumerate() {
                let fits = row < count && (index == 0 || needed[index - 1] < row);
                let expected = || format!("ascending, each below {count}");
                let wrong = || Error::Value { what: "the rows needed", expected: expected(), index, got: row.to_string() };
                *mask.get_mut(row).filter(|_| fits).ok_or_else(wrong)? = 1;
            }
            up(mask)
        });
        Ok(Self { routed: routed.transpose()?, needed: needed.transpose()? })
    }

    fn inputs<'a>(&'a self, uses: &mut Uses<'a>, x: u64, flat: u64) -> Result<Inputs> {
        let mut address = |mask: &'a Option<CudaSlice<u8>>| mask.as_ref().map_or(Ok(0), |mask| uses.read(mask));
        Ok(Inputs { x, flat, routed: address(&self.routed)?, needed: address(&self.needed)? })
    }
}

/// (what the gate says f32 [3, N, E], y [N, D], what backward needs) of x and flat parameters, each with its layout.
pub(in crate::candle) fn forward(
    config: &MoeConfig,
    rows: &MoeRows,
    (tokens, samples): (usize, usize),
    (x, xl): (&CudaStorage, &Strides),
    (flat, fl): (&CudaStorage, &Strides),
) -> Result<(CudaStorage, CudaStorage, State)> {
    let (device, dtype) = (x.device(), dtype(x)?);
    let stream = device.cuda_stream();
    let driver = driver(&stream)?;
    driver.prepare(&kernels(driver.facts().arch, dtype))?;
    let count = tokens * samples;
    let masks = Masks::new(&stream, rows, count)?;
    let needed = rows.rows_needed.as_ref().map_or(count, Vec::len);
    let rows = Rows { config: config.clone(), dtype, tokens, samples, layout: rows.layout, needed };

    let mut gate = empty(device, 3 * count * config.experts.count, DType::F32)?;
    let mut y = empty(device, count * config.width, dtype)?;
    let mut state = block(&stream, rows.state_bytes()?)?;
    let mut space = block(&stream, rows.forward_bytes(driver.facts())?)?;
    {
        let mut uses = Uses::of(&stream);
        let (x, x_len) = read(&mut uses, x, xl, dtype)?;
        let (flat, flat_len) = read(&mut uses, flat, fl, dtype)?;
        rows.check(x_len, flat_len)?;
        let at = masks.inputs(&mut uses, x, flat)?;
        let left = Left { gate: write(&mut uses, &mut gate)?, state: uses.write(&mut state)? };
        let y = write(&mut uses, &mut y)?;
        let workspace = Workspace { bytes: space.len(), at: uses.write(&mut space)? };
        // SAFETY: as above.
        unsafe { rows.forward(&queue(&driver, &stream), at, left, y, workspace)? };
    }
    Ok((gate, y, State { driver, stream, rows, masks, block: state }))
}

/// The gradients on x and on the flat parameters; `gate` as forward gave it, every tensor contiguous.
pub(in crate::candle) fn backward(
    state: &State,
    x: &Tensor,
    flat: &Tensor,
    gate: &Tensor,
    dgate: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let State { driver, stream, rows, masks, block: left } = state;
    let stored = [x, flat, gate, dgate, dy].map(Tensor::storage_and_layout);
    let dtypes = [rows.dtype, rows.dtype, DType::F32, DType::F32, rows.dtype];
    let device = on_gpu(&stored[0].0)?.device().clone();
    let mut dx = empty(&device, x.elem_count(), rows.dtype)?;
    let mut dflat = empty(&device, flat.elem_count(), rows.dtype)?;
    let mut space = block(stream, rows.backward_bytes(driver.facts())?)?;
    {
        let mut uses = Uses::of(stream);
        let mut at = [0; 5];
        for (at, ((storage, layout), dtype)) in at.iter_mut().zip(stored.iter().zip(dtypes)) {
            *at = read(&mut uses, on_gpu(storage)?, layout, dtype)?.0;
        }
        let [x, flat, gate, dgate, dy] = at;
        let at = masks.inputs(&mut uses, x, flat)?;
        let left = Left { gate, state: uses.read(left)? };
        let d = Gradients { dy, dgate, dx: write(&mut uses, &mut dx)?, dflat: write(&mut uses, &mut dflat)? };
        let workspace = Workspace { bytes: space.len(), at: uses.write(&mut space)? };
        // SAFETY: as above.
        unsafe { rows.backward(&queue(driver, stream), at, left, d, workspace)? };
    }
    Ok((like(dx, x), like(dflat, flat)))
}
