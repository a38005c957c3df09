//! The experts' six products as the plan sees them: how many tiles, how deep, and what they move.

use super::tile::Tile;
use crate::config::{Activation, MoeConfig};
use crate::dtype::DType;
use crate::gpu::moe::Sizes;

/// One of the six.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// x fc1ᵀ.
    Up,
    /// hidden fc2ᵀ.
    Down,
    /// dy fc2.
    Dinner,
    /// dinner fc1.
    Dx,
    /// dinnerᵀ x.
    Dfc1,
    /// dyᵀ hidden.
    Dfc2,
}

impl Product {
    /// All of them.
    pub const ALL: [Product; 6] = [Product::Up, Product::Down, Product::Dinner, Product::Dx, Product::Dfc1, Product::Dfc2];

    /// Those that wait for dinner alone: see [`super::Plan::merges`]. In the order of their tiles.
    pub const MERGED: [Product; 3] = [Product::Dfc2, Product::Dfc1, Product::Dx];

    /// Its kernels' name for it.
    pub fn name(self, gated: bool) -> &'static str {
        match self {
            Product::Up if gated => "up_gated",
            Product::Up => "up",
            Product::Down => "down",
            Product::Dinner if gated => "dinner_gated",
            Product::Dinner => "dinner",
            Product::Dx => "dx",
            Product::Dfc1 => "dfc1",
            Product::Dfc2 => "dfc2",
        }
    }

    /// Whether its rows are pairs; else it is a weight's gradient, and pairs are its K.
    pub fn is_over_pairs(self) -> bool {
        !matches!(self, Product::Dfc1 | Product::Dfc2)
    }

    /// Whether a row of the first operand is brought from wherever route says.
    pub fn gathers(self) -> bool {
        !matches!(self, Product::Down | Product::Dx)
    }
}

/// So many experts of so many pairs each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub experts: usize,
    pub pairs: usize,
}

/// A layer's experts and how many pairs each has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub width: usize,
    pub expert_width: usize,
    pub gated: bool,
    pub activation: Activation,
    /// See [`crate::gpu::experts::folds`].
    pub folded: bool,
    pub element: usize,
    /// Rows that pairs are made of, at most.
    pub rows: usize,
    pub segments: [Segment; 3],
}

/// What a product comes to with a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    /// Tiles.
    pub tiles: f64,
    /// Steps of one along K of a tile, on average, in whole steps of shared memory.
    pub depth: f64,
    /// The deepest tile's.
    pub deepest: f64,
    /// Instructions of a thread for each element of the product, once it is summed.
    pub instructions: f64,
    /// Of a product without any loss to tiles.
    pub flops: f64,
    /// Each tensor once.
    pub bytes: f64,
}

impl Load {
    /// The pairs that there may be, spread evenly over the experts.
    pub fn even(config: &MoeConfig, dtype: DType, sizes: &Sizes) -> Self {
        let (experts, routed) = (config.experts.count, sizes.routed_pairs);
        let (each, more) = (routed / experts, routed % experts);
        let shared = Segment { experts: config.shared_expert.into(), pairs: sizes.pairs - routed };
        Self {
            width: config.width,
            expert_width: config.experts.width,
            gated: config.experts.gated,
            activation: config.experts.activation,
            folded: crate::gpu::experts::folds(config, dtype),
            element: dtype.bytes(),
            rows: sizes.rows,
            segments: [Segment { experts: experts - more, pairs: each }, Segment { experts: more, pairs: each + 1 }, shared],
        }
    }

    pub fn pairs(&self) -> usize {
        self.segments.iter().map(|s| s.experts * s.pairs).sum()
    }

    /// Sums over segments.
    fn sum(&self, each: impl Fn(usize) -> usize) -> f64 {
        self.segments.iter().map(|s| s.experts as f64 * each(s.pairs) as f64).sum()
    }

    /// What finishing an element takes, as NVRTC 13.0 compiles engine `wgmma` for sm_90a: counted in its machine code, per thread and tile.
    fn instructions(&self, product: Product) -> f64 {
        let activation = match self.activation {
            Activation::Relu => 1.0,
            Activation::QuickGelu | Activation::Silu => 6.5,
            Activation::Gelu => 30.0,
        };
        match product {
            Product::Up if self.folded => 5.0,
            // Two elements of the product are one of the hidden layer.
            Product::Up if self.gated => (10.0 + activation) / 2.0,
            Product::Up => 6.0 + activation,
            Product::Dinner if self.folded => 7.0,
            Product::Dinner if self.gated => 19.0 + 1.2 * activation,
            Product::Dinner => 13.0 + 1.2 * activation,
            Product::Down => 4.0,
            Product::Dx | Product::Dfc1 | Product::Dfc2 => 2.5,
        }
    }

    /// The product with that tile.
    pub fn work(&self, product: Product, tile: Tile) -> Work {
        let (d, f, p, maps) = (self.width, self.expert_width, self.pairs() as f64, if self.gated { 2 } else { 1 });
        // Elements of K in 128 bytes.
        let step = 128 / self.element;
        let whole = |depth: usize| depth.next_multiple_of(step) as f64;
        let (columns, depth, maps_of) = match product {
            // A tile has columns of both maps.
            Product::Up => (maps * f, whole(d), maps),
            Product::Down => (d, whole(f), 1),
            Product::Dinner => (f, whole(d), 1),
            Product::Dx => (d, maps as f64 * whole(f), maps),
            Product::Dfc1 => (d, 0.0, maps),
            Product::Dfc2 => (f, 0.0, 1),
        };
        let (df, flops) = (d as f64 * f as f64, 2.0 * p * d as f64 * f as f64 * maps_of as f64);
        // What is read or written of each pair, in elements; dinner reads what up wrote.
        let (d, f, maps) = (d as f64, f as f64, maps as f64);
        let rows = (self.rows as f64).min(p) * d;
        let moved = match product {
            Product::Up if self.folded => rows + p * f,
            Product::Dinner if self.folded => rows + p * f * 2.0,
            Product::Up => rows + p * f * (1.0 + maps),
            Product::Down => p * (f + d),
            Product::Dinner => rows + p * f * (2.0 * maps + 1.0),
            Product::Dx => p * (maps * f + d),
            Product::Dfc1 => p * f * maps + rows,
            Product::Dfc2 => p * f + rows,
        };
        // An expert's weights are read only where it has pairs; all its gradients are written.
        let experts = if product.is_over_pairs() { self.sum(|pairs| pairs.min(1)) } else { self.sum(|_| 1) };
        let bytes = (moved + experts * df * maps_of as f64) * self.element as f64;
        let instructions = self.instructions(product);
        if product.is_over_pairs() {
            let across = columns.div_ceil(tile.columns) as f64;
            let tiles = self.sum(|pairs| pairs.div_ceil(tile.rows)) * across;
            return Work { tiles, depth, deepest: depth, instructions, flops, bytes };
        }
        let down = if product == Product::Dfc1 { self.expert_width } else { self.width }.div_ceil(tile.rows);
        let each = (down * columns.div_ceil(tile.columns) * maps_of) as f64;
        let tiles = self.sum(|_| 1) * each;
        let deepest = self.segments.iter().filter(|s| s.experts > 0).map(|s| whole(s.pairs)).fold(0.0, f64::max);
        let depth = self.segments.iter().map(|s| s.experts as f64 * whole(s.pairs)).sum::<f64>() * each / tiles.max(1.0);
        Work { tiles, depth, deepest, instructions, flops, bytes }
    }
}
