//! What every launch is checked for: sizes that kernels count in 32 bits, and addresses that must be there.

use super::driver::Pointer;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};

/// A number of rows, pairs or tiles, as kernels count them.
pub fn count(what: &'static str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::config(what, "below 2^31", value))
}

/// The tiles of `tile_rows` pairs that so many pairs of so many experts, the shared one among them, make at most.
pub fn most_tiles(pairs: usize, experts: usize, tile_rows: usize) -> usize {
    pairs / tile_rows.max(1) + experts.min(pairs)
}

/// Each at least 1.
pub(super) fn at_least_one(sizes: &[(&'static str, i32)]) -> Result<()> {
    let bad = sizes.iter().find(|size| size.1 < 1);
    bad.map_or(Ok(()), |&(what, got)| Err(Error::config(what, "at least 1", got)))
}

/// None of them 0.
pub(super) fn present(buffers: &[(&'static str, Pointer)]) -> Result<()> {
    let none = buffers.iter().find(|buffer| buffer.1 == 0);
    none.map_or(Ok(()), |&(what, _)| Err(Error::config(what, "given", "none")))
}

/// Not 0, unless there are no elements to read or write.
pub(super) fn present_if(what: &'static str, at: Pointer, elements: i32) -> Result<()> {
    if elements > 0 { present(&[(what, at)]) } else { Ok(()) }
}

/// The kernel's instance for that number type.
pub(super) fn instance(kernel: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F64 => Err(Error::config("the dtype on a GPU", "f32, f16 or bf16", dtype)),
        _ => Ok(format!("{kernel}_{dtype}")),
    }
}

/// f32 is what kernels of the loss compute from.
pub(super) fn narrow<W: Float>(values: &[W]) -> Result<&[f32]> {
    match W::DTYPE {
        DType::F32 => Ok(bytemuck::cast_slice(values)),
        _ => Err(Error::Refused("on a GPU the loss is computed from f32, not from f64; the CPU does that".into())),
    }
}
