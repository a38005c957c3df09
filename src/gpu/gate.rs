//! Launches the gate: its network, softmax and choice; and its gradients.

// SAFETY: addresses are the caller's promise, as `Driver` says; what can be told from the numbers is checked here.
#![allow(unsafe_code)]

use super::Queue;
use super::args::{GateBackwardRows, GateBackwardWeights, GateForward};
use super::driver::Shape;
use super::limits::{at_least_one, count, instance, present};
use crate::dtype::DType;
use crate::error::{Error, Result, product};

/// Rows of a tile, and its columns in f32.
const TILE: usize = 64;
/// Its columns in 16 bits, of the parameters' gradients.
const WIDE_TILE: usize = 128;
/// Rows that tensor cores sum up in one go at most. They align what they add to the largest of it and cut off the rest, which is no rounding
/// to nearest: a sum drifts to 0 in proportion to its length, by some 5e-6 of it over these rows, where 12,608 would be off by 2e-5 to 6e-5.
/// (H. Ootomo and R. Yokota, Recovering single precision accuracy from tensor cores, 2022; arXiv 2512.07004.)
const LONGEST_SUM: usize = 2048;

/// The least rows of a block in 16 bits, and the bytes of shared memory that kernels take which go by rows.
const ROWS: u32 = 16;
const SHARED: u32 = 98_304;
/// Likewise in f32, where a block has the rows of a [`TILE`].
const SHARED_F32: u32 = 17_408;
/// Those that the parameters' gradients take in 16 bits; in f32 as many as other kernels.
const SHARED_GRADIENTS: u32 = 61_440;

/// The shape of a kernel that goes by rows.
fn by_rows(queue: &Queue<'_>, dtype: DType, rows: i32) -> Shape {
    match dtype {
        DType::F32 => Shape::blocks(queue.blocks((rows as u32).div_ceil(TILE as u32), 2)).shared(SHARED_F32),
        _ => Shape::blocks(queue.blocks((rows as u32).div_ceil(ROWS), 1)).shared(SHARED),
    }
}

/// hidden, logits, probabilities, chosen, and weights before capacity.
///
/// # Safety
/// The addresses hold what `kernels/args/gate.cuh` says.
pub unsafe fn forward(queue: &Queue<'_>, dtype: DType, args: &GateForward) -> Result<()> {
    check_sizes(args.rows, args.width, args.hidden_width, args.experts)?;
    if args.top_k < 1 || args.top_k > args.experts {
        return Err(Error::config("top-k", format!("from 1 to the number of experts, {}", args.experts), args.top_k));
    }
    present(&[("x", args.x), ("gate.fc2.weight", args.fc2_weight), ("the gate's logits", args.logits)])?;
    present(&[("the gate's probabilities", args.probabilities), ("the gate's choices", args.chosen)])?;
    present(&[("the gate's weights", args.weights), ("the routing's counters", args.counters)])?;
    if args.hidden_width > 0 {
        present(&[("gate.fc1.weight", args.fc1_weight), ("the gate's hidden layer", args.hidden)])?;
    }
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&instance("gate_forward", dtype)?, by_rows(queue, dtype, args.rows), args) }
}

/// dhidden and the gate's share of dx, from the gradient on the logits.
///
/// # Safety
/// The addresses hold what `kernels/args/gate.cuh` says.
pub unsafe fn backward_rows(queue: &Queue<'_>, dtype: DType, args: &GateBackwardRows) -> Result<()> {
    check_sizes(args.rows, args.width, args.hidden_width, args.experts)?;
    present(&[("the logits' gradient", args.dlogits), ("gate.fc2.weight", args.fc2_weight), ("the gate's dx", args.dx)])?;
    if args.hidden_width > 0 {
        present(&[("the gate's hidden layer", args.hidden), ("its gradient", args.dhidden)])?;
        present(&[("gate.fc1.weight", args.fc1_weight)])?;
    }
    if args.tiles > 0 {
        present(&[("the gate's counters", args.counters)])?;
    }
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&instance("gate_backward_rows", dtype)?, by_rows(queue, dtype, args.rows), args) }
}

/// How the gradients of a gate's parameters are cut into work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tiles of all gradients together: as many counters.
    pub tiles: usize,
    /// Columns of a tile.
    pub columns: usize,
    /// How many stretches the rows are cut into.
    pub splits: usize,
}

impl Cut {
    /// So that a device of so many multiprocessors is busy. `hidden_width` is 0 for a linear gate.
    pub fn new(
        multiprocessors: u32,
        dtype: DType,
        rows: usize,
        width: usize,
        hidden_width: usize,
        experts: usize,
    ) -> Result<Self> {
        let columns = if dtype == DType::F32 { TILE } else { WIDE_TILE };
        let of = |outputs: usize, inputs: usize| product("the gate's tiles", &[outputs.div_ceil(TILE), inputs.div_ceil(columns)]);
        let tiles = match hidden_width {
            0 => of(experts, width)?,
            _ => of(hidden_width, width)? + of(experts, hidden_width)?,
        };
        // Fewer rows than these are not worth adding up once more.
        let most = rows.div_ceil(256).max(1);
        let least = if dtype == DType::F32 { 1 } else { rows.div_ceil(LONGEST_SUM).max(1) };
        Ok(Self { tiles, columns, splits: (2 * multiprocessors as usize / tiles.max(1)).clamp(least, most) })
    }

    /// Elements of the workspace `parts`: of each split of a tile its sums, and those of a bias's gradient.
    pub fn parts_len(self) -> Result<usize> {
        if self.splits == 1 {
            Ok(0)
        } else {
            product("the parts of the gate's gradients", &[self.tiles, self.splits, TILE, self.columns + 1])
        }
    }
}

/// The gradients of the gate's parameters. `args.splits` is that of a [`Cut`].
///
/// # Safety
/// The addresses hold what `kernels/args/gate.cuh` says.
pub unsafe fn backward_weights(queue: &Queue<'_>, dtype: DType, args: &GateBackwardWeights) -> Result<()> {
    check_sizes(args.rows, args.width, args.hidden_width, args.experts)?;
    at_least_one(&[("the splits of the rows", args.splits)])?;
    present(&[("x", args.x), ("the logits' gradient", args.dlogits), ("the gradient of gate.fc2.weight", args.dfc2_weight)])?;
    if args.hidden_width > 0 {
        present(&[("the gate's hidden layer", args.hidden), ("its gradient", args.dhidden)])?;
        present(&[("the gradient of gate.fc1.weight", args.dfc1_weight)])?;
    }
    if args.splits > 1 {
        present(&[("the parts of the gate's gradients", args.parts), ("the gate's counters", args.counters)])?;
    }
    let [rows, width, hidden_width, experts] = [args.rows, args.width, args.hidden_width, args.experts].map(|n| n as usize);
    let Cut { tiles, .. } = Cut::new(1, dtype, rows, width, hidden_width, experts)?;
    let items = count("the work on the gate's gradients", product("the gate's work", &[tiles, args.splits as usize])?)?;
    let shared = if dtype == DType::F32 { SHARED_F32 } else { SHARED_GRADIENTS };
    let shape = Shape::blocks(queue.blocks(items as u32, 2)).shared(shared);
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&instance("gate_backward_weights", dtype)?, shape, args) }
}

fn check_sizes(rows: i32, width: i32, hidden_width: i32, experts: i32) -> Result<()> {
    at_least_one(&[("the number of rows", rows), ("width", width), ("the number of experts", experts)])?;
    if hidden_width < 0 { Err(Error::config("the gate's hidden width", "at least 0", hidden_width)) } else { Ok(()) }
}
