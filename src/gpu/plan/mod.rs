//! Which tile each of the experts' six products is cut into: a pure function of the device, the layer, its dtype and the bound on its
//! pairs, so that a backward pass finds what the forward pass before it had.

use super::driver::Facts;
use super::moe::Sizes;
use crate::config::MoeConfig;
use crate::dtype::DType;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// f32 by scalar multiply-adds.
    Ffma,
    /// bf16 and f16 by `mma.sync`.
    Mma,
    /// bf16 and f16 by `wgmma`, on sm_90a alone.
    Wgmma,
}

impl Engine {
    /// As kernels are named.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Ffma => "ffma",
            Engine::Mma => "mma",
            Engine::Wgmma => "wgmma",
        }
    }
}

/// What a block computes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// What multiplies.
    pub engine: Engine,
    /// Pairs of one expert; of a weight's gradient, its rows.
    pub rows: usize,
    /// Columns of the product; of gated experts' up, half are the inner layer's and half the gating map's.
    pub columns: usize,
    /// Into how many blocks the sum over K is cut.
    pub splits: usize,
}

impl Tile {
    /// The fewest rows that a tile of pairs has: no list of tiles is longer than one of these.
    pub const FEWEST_ROWS: usize = 16;
    /// The fewest columns of any.
    pub const FEWEST_COLUMNS: usize = 128;

    /// A tile of one block.
    pub const fn new(engine: Engine, rows: usize, columns: usize) -> Self {
        Self { engine, rows, columns, splits: 1 }
    }

    /// The kernel of the product `what`, but for its dtype.
    pub fn kernel(&self, what: &str) -> String {
        format!("experts_{what}_{}_{}x{}", self.engine.name(), self.rows, self.columns)
    }
}

/// A layer's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of x fc1ᵀ.
    pub up: Tile,
    /// Of hidden fc2ᵀ.
    pub down: Tile,
    /// Of dy fc2.
    pub dinner: Tile,
    /// Of dinner fc1.
    pub dx: Tile,
    /// Of dinnerᵀ x.
    pub dfc1: Tile,
    /// Of dyᵀ hidden.
    pub dfc2: Tile,
}

impl Plan {
    /// For a layer of such sizes. The products over pairs, all but dfc1 and dfc2, have tiles of the same rows, for their list is one.
    pub fn new(_facts: &Facts, _config: &MoeConfig, dtype: DType, _sizes: &Sizes) -> Self {
        let engine = if dtype == DType::F32 { Engine::Ffma } else { Engine::Mma };
        let tile = Tile::new(engine, 128, 128);
        Self { up: tile, down: tile, dinner: tile, dx: tile, dfc1: tile, dfc2: tile }
    }

    /// Pairs of a tile.
    pub fn rows(&self) -> usize {
        self.up.rows
    }

    /// The same rows without tensor maps, which want addresses and strides that are multiples of 16 bytes.
    pub fn without_maps(self) -> Self {
        let general = |tile: Tile| match tile.engine {
            Engine::Wgmma => Tile::new(Engine::Mma, tile.rows, 128),
            _ => tile,
        };
        let Self { up, down, dinner, dx, dfc1, dfc2 } = self;
        let [up, down, dinner, dx, dfc1, dfc2] = [up, down, dinner, dx, dfc1, dfc2].map(general);
        Self { up, down, dinner, dx, dfc1, dfc2 }
    }
}
