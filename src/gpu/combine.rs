//! Launches combine: the sum of each row's pairs, and what is added to it.

// SAFETY: addresses are the caller's promise, as `Driver` says; what can be told from the numbers is checked here.
#![allow(unsafe_code)]

use super::args::Combine;
use super::driver::Shape;
use super::limits::{at_least_one, instance, present};
use super::{Queue, WARPS};
use crate::dtype::DType;
use crate::error::Result;

/// out of every row, in a layer's forward pass or its backward pass.
///
/// # Safety
/// The addresses hold what `kernels/args/combine.cuh` says.
pub unsafe fn rows(queue: &Queue<'_>, dtype: DType, args: &Combine) -> Result<()> {
    at_least_one(&[("the number of rows", args.rows), ("width", args.width), ("top-k", args.top_k)])?;
    present(&[("combine's pairs of rows", args.row_pairs), ("combine's output", args.out)])?;
    let shape = Shape::blocks(queue.blocks((args.rows as u32).div_ceil(WARPS), 12));
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&instance("combine", dtype)?, shape, args) }
}
