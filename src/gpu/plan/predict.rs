//! The predicted time of every kernel of a layer. The experts' are those that the tiles are chosen by; the others' are what they move and
//! compute, once.

use super::card::Card;
use super::cost::{Bound, Cost};
use super::product::{Product, Work};
use super::{Chooser, Plan, Tile};
use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::driver::Facts;
use crate::gpu::limits::instance;
use crate::gpu::moe::Sizes;

/// What one kernel is predicted to take. Nobody measured it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The kernel, by its name in the table.
    pub kernel: String,
    /// Whether it belongs to the backward pass.
    pub backward: bool,
    /// Whether a pass launches it; else it is told how long it would take by itself, and another does its work with others'.
    pub launched: bool,
    /// The tile that was chosen, of the experts' products.
    pub tile: Option<Tile>,
    /// Its time.
    pub seconds: f64,
    /// What takes it.
    pub bound: Bound,
    /// Floating point operations that it has to do.
    pub flops: f64,
    /// Bytes that it moves if each tensor is read or written once.
    pub bytes: f64,
}

/// The share of the tensor cores' peak that the gate reaches, of few columns; on the way back it splits what is f32 into two parts of 16 bits.
const GATE: f64 = 0.33;
const GATE_BACK: f64 = 0.2;
/// The share of the memory that kernels reach which do nothing else.
const STREAM: f64 = 0.85;
/// Seconds of a wait of all blocks for each other.
const MEETING: f64 = 1.5e-6;

/// Every kernel of both passes of a layer on T·B rows of which `needed` are needed, in the order of their launches; the experts' products
/// by themselves too where several are one launch. `given`: probabilities are, and the gate is no part of the layer.
///
/// # Errors
/// As [`Sizes::new`], and for f64.
pub fn predict(
    facts: &Facts,
    config: &MoeConfig,
    dtype: DType,
    tokens: usize,
    samples: usize,
    needed: usize,
    given: bool,
) -> Result<Vec<Prediction>> {
    let sizes = Sizes::new(config, tokens, samples, needed)?;
    let chooser = Chooser::new(facts, config, dtype, &sizes);
    let (card, plan) = (&chooser.card, chooser.plan());
    let [n, p, d, e, k] = [sizes.rows, sizes.pairs, config.width, config.experts.count, config.top_k].map(|n| n as f64);
    let (needed, size) = (needed as f64, dtype.bytes() as f64);
    let hidden = config.gate.hidden.map_or(0.0, |hidden| hidden.width as f64);
    let weights = if hidden > 0.0 { hidden * (d + e) } else { e * d };
    let minus = if config.subtract_input { needed * d * size } else { 0.0 };
    let lists = n * e * 4.0 + n * k * 8.0 + p * 8.0;
    let parts = p * config.experts.width.div_ceil(plan.dinner.columns) as f64 * 4.0;

    let gate_rows = n * (d * size + (hidden + 3.0 * e) * 4.0) + weights * size;
    let gate_forward = (2.0 * n * weights, gate_rows, 0.0);
    // Each of its blocks meets the others once for the counts and once for the offsets.
    let route_forward = (0.0, lists + 2.0 * n * e * 4.0, 2.0 * MEETING);
    let combine_forward = (2.0 * p * d, (p + n) * d * size + minus, 0.0);
    // dy, of rows that have pairs, for their experts' biases.
    let of_bias = if config.experts.bias { (needed.min(p) + e) * d * size } else { 0.0 };
    let route_backward = (0.0, lists + parts + 3.0 * n * e * 4.0 + of_bias, 0.0);
    let gate_backward = n * (hidden + e) * 4.0 + weights * size;
    let backward_rows = (2.0 * n * weights, gate_backward + n * (d * size + hidden * 4.0), 0.0);
    let backward_weights = (2.0 * n * weights, gate_backward + n * (d * size + hidden * 4.0), 0.0);
    let of_gate = if given { 0.0 } else { n * d * size };
    let combine_backward = (2.0 * p * d, (p + n) * d * size + of_gate + minus, 0.0);

    let named = |stem: &str| instance(stem, dtype);
    let other = |kernel: String, backward: bool, of: (f64, f64, f64)| other(card, kernel, backward, dtype, of);
    let product = |product: Product| chosen(&chooser, &plan, config.experts.gated, product);
    let mut kernels = vec![];
    if !given {
        kernels.push(other(named("gate_forward")?, false, gate_forward));
    }
    kernels.extend([
        other("route_forward".into(), false, route_forward),
        product(Product::Up)?,
        product(Product::Down)?,
        other(named("combine")?, false, combine_forward),
        product(Product::Dinner)?,
        product(Product::Dfc2)?,
        product(Product::Dx)?,
        product(Product::Dfc1)?,
    ]);
    if plan.merges() {
        kernels.push(in_one(&chooser, plan.dx)?);
    }
    kernels.push(other(named("route_backward")?, true, route_backward));
    if !given {
        kernels.push(other(named("gate_backward_rows")?, true, backward_rows));
        kernels.push(other(named("gate_backward_weights")?, true, backward_weights));
    }
    kernels.push(other(named("combine")?, true, combine_backward));
    Ok(kernels)
}

/// What waits for dinner alone, in one launch.
fn in_one(chooser: &Chooser<'_>, tile: Tile) -> Result<Prediction> {
    let sum = |of: fn(&Work) -> f64| Product::MERGED.iter().map(|&product| of(&chooser.load.work(product, tile))).sum();
    let Cost { seconds, bound } = chooser.merged(tile);
    let kernel = instance(&tile.kernel("merged"), chooser.dtype)?;
    let (flops, bytes) = (sum(|work| work.flops), sum(|work| work.bytes));
    Ok(Prediction { kernel, backward: true, launched: true, tile: Some(tile), seconds, bound, flops, bytes })
}

fn chosen(chooser: &Chooser<'_>, plan: &Plan, gated: bool, product: Product) -> Result<Prediction> {
    let tile = plan.tile(product);
    let work = chooser.load.work(product, tile);
    let Cost { seconds, bound } = chooser.cost(product, tile);
    let kernel = instance(&tile.kernel(product.name(gated)), chooser.dtype)?;
    let backward = !matches!(product, Product::Up | Product::Down);
    let launched = !(plan.merges() && Product::MERGED.contains(&product));
    Ok(Prediction { kernel, backward, launched, tile: Some(tile), seconds, bound, flops: work.flops, bytes: work.bytes })
}

fn other(card: &Card, kernel: String, backward: bool, dtype: DType, of: (f64, f64, f64)) -> Prediction {
    let (flops, bytes, waiting) = of;
    let peak = if dtype == DType::F32 { card.scalar * 0.5 } else { card.tensor * if backward { GATE_BACK } else { GATE } };
    let (math, memory) = (flops / peak + waiting, bytes / (card.memory * STREAM) + waiting);
    let Cost { seconds, bound } = Cost::new(&[(math, Bound::Tensor), (memory, Bound::Memory)]);
    Prediction { kernel, backward, launched: true, tile: None, seconds, bound, flops, bytes }
}
