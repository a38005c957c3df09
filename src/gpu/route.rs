//! Launches route: capacity, the list of kept pairs, and the columns' moments; and the way back to the logits.

// SAFETY: addresses are the caller's promise, as `Driver` says; what can be told from the numbers is checked here.
#![allow(unsafe_code)]

use super::args::{RouteBackward, RouteForward};
use super::driver::Shape;
use super::limits::{at_least_one, count, instance, present};
use super::{Queue, WARPS};
use crate::dtype::DType;
use crate::error::{Error, Result, product};

/// Rows of a scope that a warp selects among; of more, a block does. As in `kernels/route.cu`.
const WARP_TOKENS: usize = 320;

/// Elements of the workspace `counts` on a device of so many multiprocessors.
pub fn counts_len(multiprocessors: u32, experts: usize) -> Result<usize> {
    product("the counts of pairs", &[3, multiprocessors as usize, experts + 1])
}

/// Final weights, the lists of pairs and of tiles, and the columns' moments.
///
/// # Safety
/// The addresses hold what `kernels/args/route.cuh` says.
pub unsafe fn forward(queue: &Queue<'_>, args: &RouteForward) -> Result<()> {
    at_least_one(&[("the number of tokens", args.tokens), ("the number of samples", args.samples)])?;
    at_least_one(&[("the number of experts", args.experts), ("top-k", args.top_k), ("rows of a tile", args.tile_rows)])?;
    if args.capacity < 0 {
        return Err(Error::config("capacity", "at least 1, or 0 for none", args.capacity));
    }
    present(&[("the gate's choices", args.chosen), ("the gate's weights", args.weights), ("pairs of rows", args.row_pairs)])?;
    present(&[("expert offsets", args.expert_offsets), ("rows of pairs", args.pair_row), ("tiles", args.tiles)])?;
    present(&[("weights of pairs", args.pair_weight), ("the routing's workspace", args.kept)])?;
    present(&[("the counts of pairs", args.counts), ("the routing's counters", args.counters)])?;
    let sizes = [args.tokens, args.samples, args.experts, args.top_k].map(|n| n as usize);
    let [tokens, samples, experts, top_k] = sizes;
    let rows = product("the rows", &[tokens, samples])?;
    count("the number of (row, expert) pairs", product("the pairs", &[rows, top_k + usize::from(args.shared_pairs != 0)])?)?;
    let scope = if args.batch_scope != 0 { rows } else { tokens };
    let items = (if args.batch_scope != 0 { 1 } else { samples }).saturating_mul(experts);
    let keep = if scope > WARP_TOKENS { items } else { items.div_ceil(WARPS as usize) };
    let blocks = keep.max(rows.div_ceil(32)).min(u32::MAX as usize);
    let shape = Shape::blocks(queue.blocks(blocks as u32, 1)).cooperative();
    // SAFETY: the caller's promise.
    unsafe { queue.launch("route_forward", shape, args) }
}

/// The gradient on the logits.
///
/// # Safety
/// The addresses hold what `kernels/args/route.cuh` says.
pub unsafe fn backward(queue: &Queue<'_>, dtype: DType, args: &RouteBackward) -> Result<()> {
    at_least_one(&[("the number of rows", args.rows), ("width", args.width), ("the number of experts", args.experts)])?;
    at_least_one(&[("top-k", args.top_k), ("parts of a weight's gradient", args.parts)])?;
    present(&[("the gate's probabilities", args.probabilities), ("the final weights", args.weights)])?;
    present(&[("the gate's choices", args.chosen), ("pairs of rows", args.row_pairs), ("the logits' gradient", args.dlogits)])?;
    present(&[("the weights' gradients of pairs", args.dweight_parts), ("dy", args.dy)])?;
    let shape = Shape::blocks(queue.blocks((args.rows as u32).div_ceil(WARPS), 8));
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&instance("route_backward", dtype)?, shape, args) }
}
