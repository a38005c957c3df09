//! The numbers inside a tensor, as slices.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};

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
