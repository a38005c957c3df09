//! Which tile each of the experts' six products is cut into: a pure function of the device, the layer, its dtype and the bound on its
//! pairs, so that a backward pass finds what the forward pass before it had.
//!
//! The tiles are those whose predicted times add up to the least (see `cost`), dfc2, dfc1 and dx in one launch where they have the same.
//! How the pairs are spread over the experts is known on the device alone; an even load is assumed. The same predictions, of every kernel
//! of a layer, are what [`predict`] tells.

mod card;
mod cost;
mod predict;
mod product;
#[cfg(test)]
mod tests;
mod tile;

#[cfg(feature = "cli")]
pub(crate) use card::is_called;
pub use card::{CARDS, Card};
pub use cost::Bound;
pub use predict::{Prediction, predict};
pub use product::Product;
pub use tile::{Block, Engine, Tile};

use super::driver::Facts;
use super::moe::Sizes;
use crate::config::MoeConfig;
use crate::dtype::DType;
use cost::{Cost, cost, merged};
use product::Load;
use tile::{can_run, candidates};

/// A layer's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Pairs of a tile in the layer's list of them.
    pub rows: usize,
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
    pub fn new(facts: &Facts, config: &MoeConfig, dtype: DType, sizes: &Sizes) -> Self {
        Chooser::new(facts, config, dtype, sizes).plan()
    }

    /// Whether dfc2, dfc1 and dx go in one launch: with one tile of engine `wgmma`, which then is never slower than one by one.
    pub fn merges(&self) -> bool {
        self.dx.engine == Engine::Wgmma && [self.dfc1, self.dfc2] == [self.dx; 2]
    }

    /// The tile of a product.
    pub fn tile(&self, product: Product) -> Tile {
        match product {
            Product::Up => self.up,
            Product::Down => self.down,
            Product::Dinner => self.dinner,
            Product::Dx => self.dx,
            Product::Dfc1 => self.dfc1,
            Product::Dfc2 => self.dfc2,
        }
    }

    /// The same list of tiles without tensor maps, which want addresses and strides that are multiples of 16 bytes.
    pub fn without_maps(self) -> Self {
        let general = |product: Product| match self.tile(product) {
            Tile { engine: Engine::Wgmma, rows, .. } if product.is_over_pairs() && rows > 128 => {
                Tile::new(Engine::Mma, Tile::APART, 128)
            }
            Tile { engine: Engine::Wgmma, .. } => Tile::new(Engine::Mma, 128, 128),
            other => other,
        };
        Self::of(self.rows, Product::ALL.map(general))
    }

    /// In the order of [`Product::ALL`].
    fn of(rows: usize, [up, down, dinner, dx, dfc1, dfc2]: [Tile; 6]) -> Self {
        Self { rows, up, down, dinner, dx, dfc1, dfc2 }
    }
}

/// What a plan is made from.
struct Chooser<'a> {
    facts: &'a Facts,
    card: Card,
    dtype: DType,
    load: Load,
}

impl<'a> Chooser<'a> {
    fn new(facts: &'a Facts, config: &MoeConfig, dtype: DType, sizes: &Sizes) -> Self {
        Self { facts, card: Card::of(facts), dtype, load: Load::even(config, dtype, sizes) }
    }

    fn cost(&self, product: Product, tile: Tile) -> Cost {
        let work = self.load.work(product, tile);
        cost(&self.card, self.facts.shared_bytes, product, tile, &work, self.load.element as f64)
    }

    /// The three that can go in one launch.
    fn merged(&self, tile: Tile) -> Cost {
        let works = Product::MERGED.map(|product| (product, self.load.work(product, tile)));
        merged(&self.card, self.facts.shared_bytes, tile, &works, self.load.element as f64)
    }

    /// Those three, as a plan has them.
    fn after_dinner(&self, plan: &Plan) -> f64 {
        if plan.merges() {
            return self.merged(plan.dx).seconds;
        }
        Product::MERGED.iter().map(|&product| self.cost(product, plan.tile(product)).seconds).sum()
    }

    /// The fastest tile of a product, of those with so many rows where they are given; the first of equals.
    fn fastest(&self, product: Product, rows: Option<usize>) -> Option<(Tile, f64)> {
        candidates(product)
            .filter(|tile| rows.is_none_or(|rows| rows == tile.rows))
            .filter(|&tile| self.can_run(tile))
            .map(|tile| (tile, self.cost(product, tile).seconds))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn plan(&self) -> Plan {
        // Every dtype has an engine with tiles of 128 by 128 for all products.
        let general = Tile::new(if self.dtype == DType::F32 { Engine::Ffma } else { Engine::Mma }, 128, 128);
        let seconds = |rows: usize| -> Option<f64> {
            let over_pairs = Product::ALL.into_iter().filter(|product| product.is_over_pairs());
            over_pairs.map(|product| Some(self.fastest(product, Some(rows))?.1)).sum()
        };
        let timed = [192, 128, 64, 32, 16].into_iter().filter_map(|rows| Some((rows, seconds(rows)?)));
        let rows = timed.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(general.rows, |(rows, _)| rows);
        let tiles = Product::ALL.map(|product| {
            let rows = product.is_over_pairs().then_some(rows);
            self.fastest(product, rows).map_or(general, |(tile, _)| tile)
        });
        let apart = Plan::of(rows, tiles);
        let tiles = candidates(Product::Dfc1).filter(|tile| tile.rows == rows && self.can_run(*tile));
        let plans = tiles.map(|tile| Plan { dfc2: tile, dfc1: tile, dx: tile, ..apart }).filter(Plan::merges);
        let timed = [apart].into_iter().chain(plans).map(|plan| (plan, self.after_dinner(&plan)));
        timed.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(apart, |(plan, _)| plan)
    }

    fn can_run(&self, tile: Tile) -> bool {
        can_run(tile.engine, self.facts, self.dtype, [self.load.width, self.load.expert_width])
            && (tile.rows <= 128 || self.load.folded)
    }
}
