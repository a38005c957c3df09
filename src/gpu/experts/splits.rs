//! Tiles whose sum over K is split among blocks: of the products `down` and `dx`, whose columns are few and whose K is long. Each block
//! writes its part, the last of a tile's to come adds them in order. What they count by is set to 0 by the launch over pairs before.

use super::super::args::Splits;
use super::super::limits::{count, most_tiles, present};
use super::super::plan::{Engine, Tile};
use crate::error::{Error, Result, product};

/// What a launch needs to split its tiles, in elements; nothing where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// f32: the parts.
    pub parts: usize,
    /// i32: one for each tile.
    pub counters: usize,
}

impl Room {
    /// For a product of so many columns, over at most `pairs` pairs of so many experts, the shared one among them.
    pub fn new(tile: Tile, pairs: usize, experts: usize, columns: usize) -> Result<Self> {
        if tile.splits <= 1 || pairs == 0 {
            return Ok(Self::default());
        }
        let parts = product("the parts of split tiles", &[tile.splits, pairs, columns])?;
        let across = columns.div_ceil(tile.columns);
        let counters = product("the counters of split tiles", &[most_tiles(pairs, experts, tile.rows), across])?;
        count("the counters of split tiles", counters)?;
        Ok(Self { parts, counters })
    }
}

/// Whether that tile's kernels split and clear: those of few rows.
fn splittable(tile: Tile) -> bool {
    tile.engine == Engine::Mma && tile.rows < 128
}

/// Refuses a split that the tile's kernels do not know.
pub(super) fn expect_whole(tile: Tile) -> Result<()> {
    if tile.splits == 1 { Ok(()) } else { Err(Error::config("the splits of this product's tile", "1", tile.splits)) }
}

/// The split of a launch: how many blocks a tile has, and where their parts lie.
pub(super) fn of(tile: Tile, given: &Splits, pairs: usize, columns: i32) -> Result<Splits> {
    if tile.splits != 1 {
        if tile.splits == 0 || !splittable(tile) {
            return expect_whole(tile).map(|()| *given);
        }
        present(&[("a place for the parts of split tiles", given.parts), ("the counters of split tiles", given.arrived)])?;
    }
    let stride = product("the parts of split tiles", &[pairs, columns as usize])? as i64;
    Ok(Splits { stride, count: count("the splits", tile.splits)?, ..*given })
}

/// Refuses counters that the tile's kernel would not clear, or cannot.
pub(super) fn expect_cleared(tile: Tile, counters: i32, arrived: u64) -> Result<()> {
    match counters {
        0 => Ok(()),
        1.. if splittable(tile) => present(&[("the counters of split tiles", arrived)]),
        _ => Err(Error::config("the counters that this product's tile clears", "0", counters)),
    }
}
