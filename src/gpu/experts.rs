//! The experts' six grouped products: up and down; and back, dinner, dx, dfc1 and dfc2, of which the last three can go in one launch. How
//! many pairs there are is known on the device alone: the host gives a bound.

// SAFETY: launches alone; what the addresses hold is the caller's promise, see each function.
#![allow(unsafe_code)]

pub mod splits;

use super::Queue;
use super::args::*;
use super::driver::{Pointer, Shape};
use super::limits::{instance, most_tiles, present};
use super::maps::Mapped;
use super::plan::{Engine, Product, Tile};
use crate::config::{Activation, MoeConfig};
use crate::dtype::DType;
use crate::error::{Error, Result};

const MOST: usize = i32::MAX as usize - 1024;

/// Whether a layer's kernels fold each pair's weight into its hidden layer, which then is all that backward needs of the experts: relu's
/// slope is its sign, and dfc2 reads it as it is. Forward and backward write and read half as much of `[P, F]` so. A weight is at most
/// 1 and may be tiny, for which f16 has no numbers.
pub fn folds(config: &MoeConfig, dtype: DType) -> bool {
    config.experts.activation == Activation::Relu && !config.experts.gated && dtype != DType::F16
}

/// How many parts of each pair's weight gradient `dinner` writes with that tile.
pub fn parts(expert_width: usize, dinner: Tile) -> usize {
    expert_width.div_ceil(dinner.columns)
}

/// Launches `up` over at most `pairs` pairs, whose list of tiles was cut by the tile's rows.
///
/// # Safety
/// Every address in `args` holds what its field says, or is 0 where it may be none, until the stream has passed the launch.
pub unsafe fn up(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsUp, pairs: usize) -> Result<()> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    check_activation(a.activation)?;
    check_folded(tile, a.folded, a.activation, a.experts_weights.glu_weight, ("inner", a.inner))?;
    check_stride(a.x_stride, a.width)?;
    splits::expect_whole(tile)?;
    splits::expect_cleared(tile, a.counters, a.arrived)?;
    if pairs == 0 {
        return Ok(());
    }
    let (weights, shared) = (&a.experts_weights, &a.shared_weights);
    present(&[("x", a.x), ("hidden", a.hidden), ("fc1's weight", weights.fc1_weight)])?;
    let (gated, has_shared) = (weights.glu_weight != 0, shared.fc1_weight != 0);
    if has_shared && gated != (shared.glu_weight != 0) {
        return Err(Error::Refused("the experts and the shared expert must all be gated, or none of them".into()));
    }
    let biases = [weights.fc1_bias, weights.glu_bias, shared.fc1_bias, shared.glu_bias].map(|bias| ("a bias", bias));
    let outputs = [("inner", a.inner), ("glu", a.glu), ("hidden", a.hidden)];
    expect_aligned(tile, [a.width, a.expert_width], &[&outputs[..], &biases].concat())?;
    let columns = [a.expert_width, if gated { tile.columns / 2 } else { tile.columns } as i32];
    let tiles = pair_tiles(&a.pairs, pairs, a.experts, has_shared, tile, columns)?;
    let weights = Mapped::first(&a.experts_weights, &a.shared_weights);
    let mapped =
        Mapped { pairs: [0; 2], weights, weight: [a.expert_width, a.width], count: a.experts, pair_width: a.expert_width };
    let args = ExpertsUp { maps: maps(queue, dtype, tile, &mapped, pairs)?, ..*a };
    // SAFETY: the caller's promise.
    unsafe { launch(queue, Product::Up.name(gated), dtype, tile, tiles, &args) }
}

/// Launches `down` over at most `pairs` pairs.
///
/// # Safety
/// As [`up`].
pub unsafe fn down(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDown, pairs: usize) -> Result<()> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    if pairs == 0 {
        return Ok(());
    }
    let splits = splits::of(tile, &a.splits, pairs, a.width)?;
    present(&[("hidden", a.hidden), ("out", a.out), ("fc2's weight", a.experts_weights.fc2_weight)])?;
    let biases = [("a bias", a.experts_weights.fc2_bias), ("a bias", a.shared_weights.fc2_bias)];
    expect_aligned(tile, [a.width, a.expert_width], &[("out", a.out), biases[0], biases[1]])?;
    let columns = [a.width, tile.columns as i32];
    let tiles = pair_tiles(&a.pairs, pairs, a.experts, a.shared_weights.fc2_weight != 0, tile, columns)?;
    let weights = Mapped::second(&a.experts_weights, &a.shared_weights);
    let mapped =
        Mapped { pairs: [a.hidden, 0], weights, weight: [a.width, a.expert_width], count: a.experts, pair_width: a.expert_width };
    let args = ExpertsDown { splits, maps: maps(queue, dtype, tile, &mapped, pairs)?, ..*a };
    // SAFETY: the caller's promise.
    unsafe { launch(queue, "down", dtype, tile, tiles, &args) }
}

/// Launches `dinner` over at most `pairs` pairs.
///
/// # Safety
/// As [`up`].
pub unsafe fn dinner(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDinner, pairs: usize) -> Result<()> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    check_activation(a.activation)?;
    check_stride(a.dy_stride, a.width)?;
    splits::expect_whole(tile)?;
    splits::expect_cleared(tile, a.counters, a.arrived)?;
    if pairs == 0 {
        return Ok(());
    }
    let inputs =
        [("dy", a.dy), ("inner", a.inner), ("fc2's weight", a.experts_weights.fc2_weight), ("pair_weight", a.pairs.pair_weight)];
    present(&inputs)?;
    present(&[("dinner", a.dinner), ("dweight_parts", a.dweight_parts)])?;
    if a.folded == 0 {
        present(&[("weighted", a.weighted)])?;
    }
    check_folded(tile, a.folded, a.activation, a.glu, ("weighted", a.weighted))?;
    if (a.glu == 0) != (a.dglu == 0) {
        return Err(Error::Refused("dinner needs both glu and dglu, or neither".into()));
    }
    expect_aligned(tile, [a.width, a.expert_width], &[("dinner", a.dinner), ("dglu", a.dglu), ("weighted", a.weighted)])?;
    let parts = parts(a.expert_width as usize, tile);
    if a.parts as usize != parts {
        return Err(Error::config("the number of parts", parts.to_string(), a.parts));
    }
    let columns = [a.expert_width, tile.columns as i32];
    let tiles = pair_tiles(&a.pairs, pairs, a.experts, a.shared_weights.fc2_weight != 0, tile, columns)?;
    let weights = Mapped::second(&a.experts_weights, &a.shared_weights);
    let mapped = Mapped {
        pairs: [a.inner, a.glu],
        weights,
        weight: [a.width, a.expert_width],
        count: a.experts,
        pair_width: a.expert_width,
    };
    let args = ExpertsDinner { maps: maps(queue, dtype, tile, &mapped, pairs)?, ..*a };
    // SAFETY: the caller's promise.
    unsafe { launch(queue, Product::Dinner.name(args.glu != 0), dtype, tile, tiles, &args) }
}

/// Launches `dx` over at most `pairs` pairs.
///
/// # Safety
/// As [`up`].
pub unsafe fn dx(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDx, pairs: usize) -> Result<()> {
    let (args, tiles) = prepare_dx(queue, dtype, tile, args, pairs)?;
    // SAFETY: the caller's promise.
    if pairs == 0 { Ok(()) } else { unsafe { launch(queue, "dx", dtype, tile, tiles, &args) } }
}

/// What its launch takes, and how many tiles there may be.
fn prepare_dx(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDx, pairs: usize) -> Result<(ExpertsDx, usize)> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    if pairs == 0 {
        return Ok((*a, 0));
    }
    let splits = splits::of(tile, &a.splits, pairs, a.width)?;
    let (weights, shared) = (&a.experts_weights, &a.shared_weights);
    present(&[("dinner", a.dinner), ("dx", a.dx), ("fc1's weight", weights.fc1_weight)])?;
    let has_shared = shared.fc1_weight != 0;
    if a.dglu != 0 {
        present(&[("glu's weight", weights.glu_weight)])?;
        if has_shared {
            present(&[("the shared expert's glu weight", shared.glu_weight)])?;
        }
    }
    expect_aligned(tile, [a.width, a.expert_width], &[("dx", a.dx)])?;
    let tiles = pair_tiles(&a.pairs, pairs, a.experts, has_shared, tile, [a.width, tile.columns as i32])?;
    let weights = Mapped::first(&a.experts_weights, &a.shared_weights);
    let mapped = Mapped {
        pairs: [a.dinner, a.dglu],
        weights,
        weight: [a.expert_width, a.width],
        count: a.experts,
        pair_width: a.expert_width,
    };
    Ok((ExpertsDx { splits, maps: maps(queue, dtype, tile, &mapped, pairs)?, ..*a }, tiles))
}

/// Launches `dfc1` over at most `pairs` pairs; where there are none, it still writes zeros.
///
/// # Safety
/// As [`up`].
pub unsafe fn dfc1(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDfc1, pairs: usize) -> Result<()> {
    let (args, tiles) = prepare_dfc1(queue, dtype, tile, args, pairs)?;
    // SAFETY: the caller's promise.
    unsafe { launch(queue, "dfc1", dtype, tile, tiles, &args) }
}

fn prepare_dfc1(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDfc1, pairs: usize) -> Result<(ExpertsDfc1, usize)> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    check_stride(a.x_stride, a.width)?;
    splits::expect_whole(tile)?;
    if pairs > 0 {
        present(&[("dinner", a.dinner), ("x", a.x)])?;
    }
    let gated = a.dglu != 0;
    for gradients in given(&a.experts_gradients, &a.shared_gradients, a.has_shared) {
        present(&[("a place for fc1's gradient", gradients.fc1_weight)])?;
        let places = [("fc1's gradient", gradients.fc1_weight), ("glu's gradient", gradients.glu_weight)];
        expect_aligned(tile, [a.width, a.expert_width], &places)?;
        if gated {
            present(&[("a place for glu's gradient", gradients.glu_weight)])?;
        }
    }
    let weights = if gated { 2 } else { 1 };
    let tiles = weight_tiles(tile, a.experts, a.has_shared, weights, a.expert_width, a.width)?;
    let none = [[0; 2]; 2];
    let mapped = Mapped { pairs: [a.dinner, a.dglu], weights: none, weight: [0; 2], count: 0, pair_width: a.expert_width };
    Ok((ExpertsDfc1 { maps: maps(queue, dtype, tile, &mapped, pairs)?, ..*a }, tiles))
}

/// Launches `dfc2` over at most `pairs` pairs; where there are none, it still writes zeros.
///
/// # Safety
/// As [`up`].
pub unsafe fn dfc2(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDfc2, pairs: usize) -> Result<()> {
    let (args, tiles) = prepare_dfc2(queue, dtype, tile, args, pairs)?;
    // SAFETY: the caller's promise.
    unsafe { launch(queue, "dfc2", dtype, tile, tiles, &args) }
}

fn prepare_dfc2(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsDfc2, pairs: usize) -> Result<(ExpertsDfc2, usize)> {
    let a = args;
    check(pairs, [a.width, a.expert_width, a.experts], &a.pairs)?;
    check_stride(a.dy_stride, a.width)?;
    splits::expect_whole(tile)?;
    let inputs = [("dy", a.dy), ("weighted", a.weighted), ("pair_weight", a.pairs.pair_weight)];
    if pairs > 0 {
        present(&inputs)?;
    }
    for gradients in given(&a.experts_gradients, &a.shared_gradients, a.has_shared) {
        present(&[("a place for fc2's gradient", gradients.fc2_weight)])?;
        expect_aligned(tile, [a.width, a.expert_width], &[("fc2's gradient", gradients.fc2_weight)])?;
    }
    let tiles = weight_tiles(tile, a.experts, a.has_shared, 1, a.width, a.expert_width)?;
    let none = [[0; 2]; 2];
    let mapped = Mapped { pairs: [a.weighted, 0], weights: none, weight: [0; 2], count: 0, pair_width: a.expert_width };
    Ok((ExpertsDfc2 { maps: maps(queue, dtype, tile, &mapped, pairs)?, ..*a }, tiles))
}

/// Launches `dfc2`, `dfc1` and `dx` as one, with a tile of engine `wgmma`: what is left of a round of one's tiles is filled with the next's.
///
/// # Safety
/// As [`up`].
pub unsafe fn merged(queue: &Queue<'_>, dtype: DType, tile: Tile, args: &ExpertsMerged, pairs: usize) -> Result<()> {
    if tile.engine != Engine::Wgmma {
        return Err(Error::config("the engine of merged products", Engine::Wgmma.name(), tile.engine.name()));
    }
    let (dfc2, of_dfc2) = prepare_dfc2(queue, dtype, tile, &args.dfc2, pairs)?;
    let (dfc1, of_dfc1) = prepare_dfc1(queue, dtype, tile, &args.dfc1, pairs)?;
    if pairs == 0 {
        // SAFETY: the caller's promise.
        return unsafe {
            launch(queue, "dfc2", dtype, tile, of_dfc2, &dfc2).and_then(|()| launch(queue, "dfc1", dtype, tile, of_dfc1, &dfc1))
        };
    }
    let (dx, of_dx) = prepare_dx(queue, dtype, tile, &args.dx, pairs)?;
    let tiles = of_dfc2.saturating_add(of_dfc1).saturating_add(of_dx);
    // SAFETY: the caller's promise.
    unsafe { launch(queue, "merged", dtype, tile, tiles, &ExpertsMerged { dfc2, dfc1, dx }) }
}

/// The gradients that are written: the shared expert's only where there is one.
fn given<'a>(
    experts: &'a ExpertGradients,
    shared: &'a ExpertGradients,
    has_shared: i32,
) -> impl Iterator<Item = &'a ExpertGradients> {
    [experts].into_iter().chain((has_shared != 0).then_some(shared))
}

/// Tiles of each weight's gradient [rows, columns], of so many weights of each expert.
fn weight_tiles(tile: Tile, experts: i32, has_shared: i32, weights: usize, rows: i32, columns: i32) -> Result<usize> {
    if !(0..2).contains(&has_shared) {
        return Err(Error::config("has_shared", "0 or 1", has_shared));
    }
    let of = |size: i32, tile: usize| (size as usize).div_ceil(tile);
    let whole = [(experts + has_shared) as usize, weights, of(rows, tile.rows), of(columns, tile.columns)];
    crate::error::product("a grid of tiles", &whole)
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
    present(&[("expert_offsets", list.expert_offsets), ("tiles", list.tiles)])?;
    if pairs > 0 { present(&[("pair_row", list.pair_row)]) } else { Ok(()) }
}

fn check_activation(number: i32) -> Result<()> {
    let count = Activation::ALL.len() as i32;
    if (0..count).contains(&number) {
        Ok(())
    } else {
        Err(Error::config("the activation's number", format!("below {count}"), number))
    }
}

/// Folded, there is nothing but the weighted hidden layer: `other` is written by layers alone whose weights are not.
fn check_folded(tile: Tile, folded: i32, activation: i32, glu: Pointer, other: (&str, Pointer)) -> Result<()> {
    if folded == 0 && tile.rows > 128 {
        let rows = tile.rows;
        return Err(Error::Refused(format!(
            "tiles of {rows} rows are of layers whose weights are folded, and this one's are not"
        )));
    }
    if folded == 0 {
        return Ok(());
    }
    if activation != Activation::Relu as i32 || glu != 0 {
        return Err(Error::Refused("weights are folded into the hidden layer of plain relu experts alone".into()));
    }
    let (what, at) = other;
    if at == 0 { Ok(()) } else { Err(Error::Refused(format!("{what} is not written where weights are folded: expected none"))) }
}

/// A row's bytes are counted in 32 bits on the device.
fn check_stride(stride: i64, width: i32) -> Result<()> {
    let most = i64::from(i32::MAX) / 4;
    if (i64::from(width)..=most).contains(&stride) {
        Ok(())
    } else {
        Err(Error::config("the stride of rows", format!("from {width} to {most}"), stride))
    }
}

/// Tiles of pairs by tiles of columns. The list's tiles are the kernel's, but that those of 64 rows take any multiple of that apart.
fn pair_tiles(list: &Pairs, pairs: usize, experts: i32, shared: bool, tile: Tile, columns: [i32; 2]) -> Result<usize> {
    let (rows, listed) = (tile.rows, list.tile_rows);
    if listed < 1 || !(listed as usize).is_multiple_of(rows) || (listed as usize != rows && rows != Tile::APART) {
        return Err(Error::config("the rows of the list's tiles", rows.to_string(), listed));
    }
    let [columns, tile_columns] = columns.map(|n| n as usize);
    let down = most_tiles(pairs, experts as usize + usize::from(shared), listed as usize);
    crate::error::product("a grid of tiles", &[down, listed as usize / rows, columns.div_ceil(tile_columns)])
}

/// Refuses what engine `wgmma` would read or write in whole 16 bytes, and cannot.
fn expect_aligned(tile: Tile, widths: [i32; 2], places: &[(&'static str, Pointer)]) -> Result<()> {
    if tile.engine != Engine::Wgmma {
        return Ok(());
    }
    if let Some(width) = widths.into_iter().find(|width| width % 8 != 0) {
        return Err(Error::config("a width of tiles by wgmma", "a multiple of 8", width));
    }
    match places.iter().find(|place| place.1 % 16 != 0) {
        None => Ok(()),
        Some((what, at)) => Err(Error::config(what, "at a multiple of 16 bytes", format!("at {at:#x}"))),
    }
}

/// What engine `wgmma` reads by tensor maps; others take none.
fn maps(queue: &Queue<'_>, dtype: DType, tile: Tile, mapped: &Mapped, pairs: usize) -> Result<ExpertMaps> {
    if tile.engine == Engine::Wgmma { mapped.maps(queue, dtype, pairs) } else { Ok(ExpertMaps::default()) }
}

/// As many blocks as run at the same time, or fewer where there is less to do.
unsafe fn launch<A: Args>(queue: &Queue<'_>, what: &str, dtype: DType, tile: Tile, tiles: usize, args: &A) -> Result<()> {
    let kernel = instance(&tile.kernel(what), dtype)?;
    let facts = queue.driver.facts();
    let block = tile.block(facts.shared_bytes);
    let resident = facts.multiprocessors * block.resident;
    let tiles = tiles.saturating_mul(tile.splits);
    if tiles > MOST - resident as usize {
        return Err(Error::TooLarge { what: "a grid of tiles", sizes: vec![tiles] });
    }
    let shape = Shape::blocks(tiles.min(resident as usize) as u32).shared(block.shared_bytes);
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&kernel, shape, args) }
}
