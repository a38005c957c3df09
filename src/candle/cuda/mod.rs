//! candle's CUDA tensors as addresses: its stream, its memory, its context, and no copy.

// SAFETY: a buffer that is not filled is written by a kernel before anything reads it.
#![allow(unsafe_code)]

pub(super) mod fol;
pub(super) mod moe;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::driver::Pointer;
use crate::gpu::driver::cuda::Cuda;
use crate::gpu::safe::{Uses, driver_of, failed};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::CudaStorageSlice as Slice;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Layout as Strides, Shape, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaStream};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What launches on that stream. It stays for good, for with it its loaded kernels would go.
fn driver(stream: &CudaStream) -> Result<Arc<Cuda>> {
    static DRIVERS: Mutex<BTreeMap<usize, Arc<Cuda>>> = Mutex::new(BTreeMap::new());
    let driver = driver_of(stream)?;
    let mut drivers = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
    drivers.entry(stream.context().ordinal()).or_insert_with(|| driver.clone());
    Ok(driver)
}

/// The dtype that kernels know it by.
fn dtype(storage: &CudaStorage) -> Result<DType> {
    match storage.dtype() {
        candle_core::DType::F32 => Ok(DType::F32),
        candle_core::DType::F16 => Ok(DType::F16),
        candle_core::DType::BF16 => Ok(DType::Bf16),
        other => {
            Err(Error::Refused(format!("a GPU's kernels compute in f32, f16 or bf16, not in {}; the CPU does", other.as_str())))
        }
    }
}

/// Where a contiguous tensor begins, and how many elements it has; it must be of that dtype.
fn read<'a>(uses: &mut Uses<'a>, storage: &'a CudaStorage, layout: &Strides, wanted: DType) -> Result<(Pointer, usize)> {
    let got = dtype(storage)?;
    if got != wanted {
        return Err(Error::config("the dtype of a tensor", wanted.to_string(), got));
    }
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Refused(format!("the tensor must be contiguous, but has strides {:?}", layout.stride())));
    };
    let begin = match &storage.slice {
        Slice::F32(slice) => uses.read(slice),
        Slice::F16(slice) => uses.read(slice),
        _ => uses.read(storage.as_cuda_slice::<half::bf16>()?),
    }?;
    Ok((begin + (start * got.bytes()) as Pointer, end - start))
}

/// Where a tensor of f32, f16 or bf16 that was just made begins.
fn write<'a>(uses: &mut Uses<'a>, storage: &'a mut CudaStorage) -> Result<Pointer> {
    match &mut storage.slice {
        Slice::F32(slice) => uses.write(slice),
        Slice::F16(slice) => uses.write(slice),
        Slice::BF16(slice) => uses.write(slice),
        _ => Err(Error::Refused("a GPU's kernels write f32, f16 or bf16".into())),
    }
}

/// A tensor's memory that holds nothing yet.
fn empty(device: &CudaDevice, len: usize, dtype: DType) -> Result<CudaStorage> {
    let dtype = match dtype {
        DType::F64 => candle_core::DType::F64,
        DType::F32 => candle_core::DType::F32,
        DType::F16 => candle_core::DType::F16,
        DType::Bf16 => candle_core::DType::BF16,
    };
    // SAFETY: as above.
    Ok(unsafe { device.alloc_uninit(&Shape::from(len), dtype) }?)
}

/// Bytes that hold nothing yet; given back when the stream has passed what was launched.
fn block(stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>> {
    // SAFETY: as above.
    unsafe { stream.alloc(bytes.max(1)) }.map_err(failed("an allocation"))
}

/// A tensor of what a kernel wrote, like another one.
fn like(storage: CudaStorage, other: &Tensor) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), other.shape(), BackpropOp::none(), false)
}

/// The memory of a tensor on a GPU.
fn on_gpu(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => Err(Error::Refused("every tensor must be on the GPU".into())),
    }
}
