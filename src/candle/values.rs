//! The numbers inside a tensor, as slices.

#[cfg(feature = "model")]
use super::moe::Number;
#[cfg(feature = "model")]
use crate::cpu::convert;
#[cfg(feature = "model")]
use crate::dtype::Element;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
#[cfg(feature = "model")]
use std::borrow::Cow;

/// The numbers of a contiguous tensor that lies in `storage`.
pub(super) fn of_storage<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("the tensor must be contiguous, but has strides {:?}", layout.stride())
    };
    Ok(&T::cpu_storage_as_slice(storage)?[start..end])
}

/// Lends the numbers of a tensor to `read`.
pub(super) fn with<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(of_storage(storage, layout)?),
        _ => bail!("the tensor must be on the CPU"),
    }
}

/// The numbers of a contiguous tensor that lies in `storage`, in another type where it has another.
#[cfg(feature = "model")]
pub(crate) fn of_any_storage<'a, T: Number>(storage: &'a CpuStorage, layout: &Layout) -> Result<Cow<'a, [T]>> {
    Ok(match storage {
        CpuStorage::F64(_) => convert(of_storage::<f64>(storage, layout)?),
        CpuStorage::F32(_) => convert(of_storage::<f32>(storage, layout)?),
        CpuStorage::F16(_) => convert(of_storage::<half::f16>(storage, layout)?),
        CpuStorage::BF16(_) => convert(of_storage::<half::bf16>(storage, layout)?),
        _ => bail!("the tensor must hold f64, f32, f16 or bf16"),
    })
}

/// Lends the numbers of a tensor to `read`, in another type where it has another.
#[cfg(feature = "model")]
pub(crate) fn with_any<T: Number, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(&of_any_storage(storage, layout)?),
        _ => bail!("the tensor must be on the CPU"),
    }
}

/// A tensor of the shape and the dtype of `like`, from numbers that may have another type.
#[cfg(feature = "model")]
pub(crate) fn like<T: Element + WithDType>(like: &Tensor, numbers: Vec<T>) -> Result<Tensor> {
    use candle_core::DType;
    fn whole<S: Element, T: Element + WithDType>(numbers: Vec<S>, like: &Tensor) -> Result<Tensor> {
        Tensor::from_vec(convert::<S, T>(&numbers).into_owned(), like.shape(), like.device())
    }
    if like.dtype() == <T as WithDType>::DTYPE {
        return Tensor::from_vec(numbers, like.shape(), like.device());
    }
    match like.dtype() {
        DType::F64 => whole::<T, f64>(numbers, like),
        DType::F32 => whole::<T, f32>(numbers, like),
        DType::F16 => whole::<T, half::f16>(numbers, like),
        DType::BF16 => whole::<T, half::bf16>(numbers, like),
        other => bail!("a gradient must be f64, f32, f16 or bf16, but is {other:?}"),
    }
}
