//! What a product is predicted to take with a tile. Every figure is a prediction: none of the factors below was measured here.
//!
//! Blocks take tiles in turn, so the busiest multiprocessor has ceil(tiles / multiprocessors) of them, c at the same time. They take it the
//! longest of
//! - the multiplications, at the card's peak times the engine's efficiency, whole tiles and whole steps of K being computed;
//! - the operands' way from the second-level cache, (rows + columns) · K elements a tile, at a multiprocessor's share of the cache's
//!   bandwidth, or at what its blocks have on the way over the memory's latency, if that is less;
//!
//! and then, once for every c tiles, what nothing hides: what is left of the epilogue (instructions of each element of the product), the
//! ring's or the pipeline's first step, and where K is split the parts' way through memory. The whole is no shorter than each tensor once
//! through the memory, and than the deepest tile alone; a launch is added.
//!
//! What is bound by two of these at once takes longer than by either, and that is not in here. So a prediction is rather a lower bound of
//! time: of the layer that SonicMoE runs at 404 TFLOP/s on an H100 (D = 768, F = 1024, gated) the products alone come out at 620. It tells
//! tiles apart all the same.

use super::card::Card;
use super::product::{Product, Work};
use super::tile::{Engine, Tile};
use crate::gpu::driver::Arch;

/// What decides how long a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Multiplications.
    Tensor,
    /// The second-level cache.
    Cache,
    /// The device's memory.
    Memory,
    /// Being launched.
    Launch,
}

impl Bound {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Tensor => "tensor",
            Bound::Cache => "cache",
            Bound::Memory => "memory",
            Bound::Launch => "launch",
        }
    }
}

/// Seconds from the end of a kernel to the next one's start, in a graph.
pub(super) const LAUNCH: f64 = 1.5e-6;
/// Seconds from asking the memory to having, under load.
const LATENCY: f64 = 1.0e-6;
/// Instructions a second of a multiprocessor: 4 warps of 32 lanes at about 1.75 GHz.
const INSTRUCTIONS: f64 = 4.0 * 32.0 * 1.75e9;
/// Instructions of each element that goes through shared memory as f32; counted by eye.
const THROUGH_SHARED: f64 = 5.0;

/// The share of the card's peak that the main loop reaches: with tiles of 128 by 256 and no multicast 704 of 763 TFLOP/s (fast.cu's ladder),
/// with tiles of 192 by 192 and no multicast 766 of 794 and 777 of 808 (its README); gathering costs 6.3 % along M and 8.5 % along K
/// (SonicMoE). On Hopper `mma.sync` reaches 63 % of the peak (Luo et al., 2024), and from shared memory no more than 67 %; elsewhere three
/// quarters are expected of a plain pipeline. Small tiles read more for what they multiply.
fn efficiency(tile: Tile, product: Product, arch: Arch) -> f64 {
    let gathered = match (product.gathers(), product.is_over_pairs()) {
        (false, _) => 1.0,
        (true, true) => 0.937,
        (true, false) => 0.915,
    };
    match tile.engine {
        Engine::Wgmma if tile.rows == 192 => 0.96 * gathered,
        Engine::Wgmma => 0.92 * gathered,
        Engine::Ffma => 0.6,
        Engine::Mma => {
            let small = match tile.rows {
                ..=16 => 0.35,
                17..=32 => 0.55,
                33..=64 => 0.8,
                _ => 1.0,
            };
            let peak = if arch == Arch::HOPPER { 0.55 } else { 0.75 };
            peak * small
        }
    }
}

/// The share of its instructions' rate that a warp reaches which has its scheduler to itself.
const ALONE: f64 = 0.6;

/// Seconds of a tile's epilogue that nothing else hides, beside what other blocks of the multiprocessor do meanwhile. Of `wgmma`'s groups
/// that multiply, each is behind the one before by a step, which `step` seconds of all tensor cores are enough for: so long the one
/// multiplies while the other finishes. The other engines' warps finish together, by way of shared memory.
fn epilogue(tile: Tile, instructions: f64, step: f64) -> f64 {
    let elements = |rows: usize| (rows * tile.columns) as f64;
    match tile.engine {
        Engine::Wgmma => (instructions * elements(64) / (INSTRUCTIONS * ALONE) - step).max(0.0),
        Engine::Mma | Engine::Ffma => (instructions + THROUGH_SHARED) * elements(tile.rows) / INSTRUCTIONS,
    }
}

/// Seconds, and why so many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    pub seconds: f64,
    pub bound: Bound,
}

impl Cost {
    /// The longest of what goes on at the same time, and a launch.
    pub fn new(parts: &[(f64, Bound)]) -> Self {
        let start = (LAUNCH, Bound::Launch);
        let longest = parts.iter().copied().fold((0.0, Bound::Launch), |most, part| if part.0 > most.0 { part } else { most });
        Self { seconds: longest.0 + LAUNCH, bound: if longest.0 > start.0 { longest.1 } else { start.1 } }
    }
}

/// How many tiles the busiest multiprocessor has.
pub(super) fn waves(tiles: f64, multiprocessors: u32) -> f64 {
    (tiles / f64::from(multiprocessors)).ceil()
}

/// Products in one launch, with a tile of engine `wgmma`: blocks go on from one's tiles to the next's, so that the busiest has fewer than
/// one by one.
pub(super) fn merged(card: &Card, shared_bytes: u32, tile: Tile, works: &[(Product, Work)], element: f64) -> Cost {
    let mut busy = vec![0.0; card.multiprocessors as usize];
    let (mut bound, mut longest, mut bytes, mut first) = (Bound::Tensor, 0.0f64, 0.0, 0.0);
    for &(product, work) in works {
        let one = cost(card, shared_bytes, product, tile, &Work { tiles: 1.0, deepest: 0.0, bytes: 0.0, ..work }, element);
        // Of which the launch and the ring's first step are the whole's.
        let each = one.seconds - LAUNCH - LATENCY;
        for (block, busy) in busy.iter_mut().enumerate() {
            let before = |number: f64| ((number - block as f64) / f64::from(card.multiprocessors)).ceil().max(0.0);
            *busy += each * (before(first + work.tiles) - before(first));
        }
        longest = longest.max(each * work.deepest / work.depth.max(1.0));
        (first, bytes, bound) = (first + work.tiles, bytes + work.bytes, one.bound);
    }
    let busiest = busy.into_iter().fold(longest, f64::max) + LATENCY;
    Cost::new(&[(busiest, bound), (bytes / card.memory, Bound::Memory)])
}

/// The product with that tile on that card.
pub(super) fn cost(card: &Card, shared_bytes: u32, product: Product, tile: Tile, work: &Work, element: f64) -> Cost {
    let (rows, columns, splits) = (tile.rows as f64, tile.columns as f64, tile.splits as f64);
    let multiprocessors = f64::from(card.multiprocessors);
    let waves = waves(work.tiles * splits, card.multiprocessors);
    let block = tile.block(shared_bytes);
    let together = waves.clamp(1.0, f64::from(block.resident));

    let peak = if tile.engine == Engine::Ffma { card.scalar } else { card.tensor } / multiprocessors;
    let math = 2.0 * rows * columns / splits / (peak * efficiency(tile, product, card.arch));
    // Two thirds of the stages are on their way.
    let on_the_way = together * f64::from(block.shared_bytes) * 2.0 / 3.0 / LATENCY;
    let feed = (rows + columns) * element / splits / (card.cache / multiprocessors).min(on_the_way);

    let step = 2.0 * 64.0 * columns * 64.0 / peak;
    let epilogue = epilogue(tile, work.instructions, step);
    // A tile's last block reads every part.
    let parts = (1.0 + splits) * rows * columns * 4.0 / (card.cache / multiprocessors) + 2.0 * LATENCY;
    let parts = if tile.splits > 1 { parts } else { 0.0 };
    let first = if tile.engine == Engine::Wgmma { LATENCY / waves.max(1.0) } else { LATENCY };
    let after = (waves / together).ceil() * (epilogue + parts + first);

    let longest = |each: f64| (waves * each * work.depth).max(each * work.deepest) + after;
    let memory = work.bytes / card.memory;
    let (math, feed) = (longest(math), longest(feed));
    Cost::new(&[(math, Bound::Tensor), (feed, Bound::Cache), (memory, Bound::Memory)])
}
