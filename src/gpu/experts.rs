//! The experts' six grouped products: up and down; and back, dinner, dx, dfc1 and dfc2. How many pairs there are is known on the device
//! alone: the host gives a bound.

// SAFETY: launches alone; what the addresses hold is the caller's promise, see each function.
#![allow(unsafe_code)]

use super::Queue;
use super::args::{Args, ExpertWeights, ExpertsDown, ExpertsUp, Pairs};
use super::driver::{Pointer, Shape};
use crate::config::Activation;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Pairs of one expert in a tile: what route cuts its tile list by.
pub const TILE_ROWS: usize = 128;
/// Columns in a tile.
pub const TILE_COLS: usize = 128;

const SHARED_BYTES: u32 = 96 << 10;
const MOST: usize = i32::MAX as usize - 1024;

/// How many parts of each pair's weight gradient `dinner` writes.
pub fn parts(expert_width: usize) -> usize {
    expert_width.div_ceil(TILE_COLS)
}

/// The most tiles that so many pairs of so many experts, the shared one among them, can make.
pub fn most_tiles(pairs: usize, experts: usize) -> usize {
    pairs / TILE_ROWS + experts.min(pairs)
}

/// Launches `up` over at most `pairs` pairs.
///
/// # Safety
/// Every address in `args` holds what its field says, or is 0 where it may be none, until the stream has passed the launch.
pub unsafe fn up(queue: &Queue<'_>, dtype: DType, args: &ExpertsUp, pairs: usize) -> Result<()> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    check_activation(a.activation)?;
    check_stride(a.x_stride, a.width)?;
    let gated = a.experts_weights.glu_weight != 0;
    present("up", &[("x", a.x), ("hidden", a.hidden), ("fc1's weight", a.experts_weights.fc1_weight)])?;
    let shared = a.shared_weights.fc1_weight != 0;
    if shared && gated != (a.shared_weights.glu_weight != 0) {
        return Err(Error::Refused("the experts and the shared expert must all be gated, or none of them".into()));
    }
    let columns = if gated { TILE_COLS / 2 } else { TILE_COLS };
    let (kernel, tiles) = (if gated { "up_gated" } else { "up" }, pair_tiles(pairs, a.experts, shared, a.expert_width, columns)?);
    // SAFETY: the caller's promise.
    unsafe { launch(queue, kernel, dtype, tiles, args) }
}

/// Launches `down` over at most `pairs` pairs.
///
/// # Safety
/// As [`up`].
pub unsafe fn down(queue: &Queue<'_>, dtype: DType, args: &ExpertsDown, pairs: usize) -> Result<()> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    present("down", &[("hidden", a.hidden), ("out", a.out), ("fc2's weight", a.experts_weights.fc2_weight)])?;
    let tiles = pair_tiles(pairs, a.experts, has_shared(&a.shared_weights), a.width, TILE_COLS)?;
    // SAFETY: the caller's promise.
    unsafe { launch(queue, "down", dtype, tiles, args) }
}

fn has_shared(weights: &ExpertWeights) -> bool {
    weights.fc2_weight != 0
}

/// Sizes are kept in 32 bits on the device, with room for a tile more.
fn check(pairs: usize, [width, expert_width, experts]: [i32; 3], list: &Pairs) -> Result<()> {
    let sizes = [("the width", width), ("the experts' width", expert_width), ("the number of experts", experts)];
    for (what, size) in sizes {
        if size < 1 || size as usize > MOST {
            return Err(Error::config(what, format!("from 1 to {MOST}"), size));
        }
    }
    if pairs > MOST {
        return Err(Error::config("the number of pairs", format!("at most {MOST}"), pairs));
    }
    present("a list of pairs", &[("expert_offsets", list.expert_offsets), ("pair_row", list.pair_row), ("tiles", list.tiles)])
}

fn check_activation(number: i32) -> Result<()> {
    let count = Activation::ALL.len() as i32;
    if (0..count).contains(&number) {
        Ok(())
    } else {
        Err(Error::config("the activation's number", format!("below {count}"), number))
    }
}

fn check_stride(stride: i64, width: i32) -> Result<()> {
    if stride >= i64::from(width) {
        Ok(())
    } else {
        Err(Error::config("the stride of rows", format!("at least {width}"), stride))
    }
}

fn present(whose: &str, pointers: &[(&str, Pointer)]) -> Result<()> {
    match pointers.iter().find(|pointer| pointer.1 == 0) {
        None => Ok(()),
        Some((what, _)) => Err(Error::Refused(format!("{whose} needs {what}, but got none"))),
    }
}

/// Tiles of pairs by tiles of columns.
fn pair_tiles(pairs: usize, experts: i32, shared: bool, columns: i32, tile_columns: usize) -> Result<usize> {
    let down = most_tiles(pairs, experts as usize + usize::from(shared));
    crate::error::product("a grid of tiles", &[down, (columns as usize).div_ceil(tile_columns)])
}

/// As many blocks as run at the same time, or fewer where there is less to do.
unsafe fn launch<A: Args>(queue: &Queue<'_>, what: &str, dtype: DType, tiles: usize, args: &A) -> Result<()> {
    let engine = match dtype {
        DType::F32 => "ffma_f32",
        DType::F16 => "mma_f16",
        DType::Bf16 => "mma_bf16",
        DType::F64 => return Err(Error::config("the dtype on a GPU", "f32, f16 or bf16", dtype)),
    };
    let facts = queue.driver.facts();
    // What a block may have is nearly all that a multiprocessor has; two of ours fit from 192 KiB on.
    let resident = facts.multiprocessors * (facts.shared_bytes / SHARED_BYTES).clamp(1, 2);
    if tiles > MOST - resident as usize {
        return Err(Error::TooLarge { what: "a grid of tiles", sizes: vec![tiles] });
    }
    let shape = Shape::blocks(tiles.min(resident as usize) as u32).shared(SHARED_BYTES);
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&format!("experts_{what}_{engine}"), shape, args) }
}
