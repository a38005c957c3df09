//! What a block computes at a time, and the kernels that there are for it.

use super::product::Product;
use crate::dtype::DType;
use crate::gpu::driver::{Arch, Facts};

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

/// What a block of a kernel takes of a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// How many a multiprocessor holds at the same time.
    pub resident: u32,
}

impl Tile {
    /// The fewest rows that a tile of pairs has: no list of tiles is longer than one of these.
    pub const FEWEST_ROWS: usize = 16;
    /// Tiles of so many rows also take those of a list apart that have a multiple of it.
    pub const APART: usize = 64;
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

    /// What its block takes on a device whose blocks may have so much shared memory.
    pub fn block(&self, shared_bytes: u32) -> Block {
        let steps = |stages: usize| (stages * (self.rows + self.columns) * 128) as u32;
        match self.engine {
            // Its registers leave room for one.
            Engine::Ffma => Block { shared_bytes: steps(3), resident: 1 },
            // What a block may have is nearly all that a multiprocessor has.
            Engine::Mma => {
                let bytes = steps(if self.rows < 128 { 4 } else { 3 });
                Block { shared_bytes: bytes, resident: (shared_bytes / bytes).clamp(1, 2) }
            }
            Engine::Wgmma => Block { shared_bytes: 227 << 10, resident: 1 },
        }
    }
}

/// All that there are kernels for, in each dtype of their engine; those of few rows for products over pairs alone, and that of 192 by 192 for
/// layers whose weights are folded, in bf16.
pub(super) const TILES: [Tile; 8] = [
    Tile::new(Engine::Ffma, 128, 128),
    Tile::new(Engine::Mma, 128, 128),
    Tile::new(Engine::Mma, 64, 128),
    Tile::new(Engine::Mma, 32, 128),
    Tile::new(Engine::Mma, 16, 128),
    Tile::new(Engine::Wgmma, 128, 128),
    Tile::new(Engine::Wgmma, 128, 256),
    Tile::new(Engine::Wgmma, 192, 192),
];

/// What K is split into, of the products of few columns and a long K, in tiles of few rows.
const SPLITS: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Whether an engine can run on a device, in that dtype, where the tensors' rows have such widths.
pub(super) fn can_run(engine: Engine, facts: &Facts, dtype: DType, widths: [usize; 2]) -> bool {
    let wide = dtype == DType::F32;
    match engine {
        Engine::Ffma => wide,
        Engine::Mma => !wide,
        // Tensor maps want rows of whole 16 bytes.
        Engine::Wgmma => {
            let room = facts.shared_bytes >= Tile::new(engine, 128, 256).block(0).shared_bytes;
            !wide && facts.arch == Arch::HOPPER && room && widths.iter().all(|width| width % 8 == 0)
        }
    }
}

/// The tiles that a product can have.
pub(super) fn candidates(product: Product) -> impl Iterator<Item = Tile> {
    let fits = move |tile: &&Tile| product.is_over_pairs() || tile.rows >= 128;
    TILES.iter().filter(fits).flat_map(move |&tile| {
        let can_split = matches!(product, Product::Down | Product::Dx) && tile.rows < 128;
        let most = if can_split { SPLITS.len() } else { 1 };
        SPLITS[..most].iter().map(move |&splits| Tile { splits, ..tile })
    })
}
