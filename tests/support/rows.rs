//! The stages that go row by row, launched on an emulated device.

// SAFETY: every buffer is as long as its kernel takes it for; the emulation checks that.
#![allow(unsafe_code)]

use super::gpu::Gpu;
use super::layer::Layer;
use fair_moe::gpu::args::{GateForward, RouteForward};
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::{gate, limits, route};
use fair_moe::*;

/// The slice in T; no buffer for an empty one.
pub fn upload<T: Element>(gpu: &Gpu, values: &[f64]) -> Buffer<T> {
    gpu.put(&values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>())
}

pub fn upload_mask(gpu: &Gpu, mask: Option<Vec<bool>>) -> Buffer<u8> {
    gpu.put(&mask.unwrap_or_default().into_iter().map(u8::from).collect::<Vec<u8>>())
}

pub fn to_f64<T: Element>(buffer: &Buffer<T>) -> Vec<f64> {
    buffer.to_vec().unwrap().iter().map(|v| v.to_f64()).collect()
}

/// Which rows of a layer are needed; none: all.
pub fn needed(layer: &Layer) -> Option<Vec<bool>> {
    let rows = layer.tokens * layer.samples;
    layer.rows_needed.as_ref().map(|needed| (0..rows).map(|row| needed.contains(&row)).collect())
}

/// What the gate's kernel gives.
pub struct Gated {
    pub hidden: Buffer<f32>,
    pub logits: Buffer<f32>,
    pub probabilities: Buffer<f32>,
    pub chosen: Buffer<i32>,
    pub weights: Buffer<f32>,
    pub counters: Buffer<i32>,
}

/// Rows of x lie `gap` elements further apart than they must.
pub fn gate_forward<T: Element>(gpu: &Gpu, layer: &Layer, gap: usize) -> Gated {
    let (config, rows) = (&layer.config, layer.tokens * layer.samples);
    let (hidden, e) = (config.gate.hidden.map_or(0, |h| h.width), config.experts.count);
    let spread: Vec<f64> =
        layer.x.chunks(config.width).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(f64::NAN, gap))).collect();
    let x = upload::<T>(gpu, &spread[..spread.len() - gap]);
    let parameter = |p: Param| upload::<T>(gpu, &layer.parameters[p]);
    let [w1, b1, w2, b2] = [Param::GateFc1Weight, Param::GateFc1Bias, Param::GateFc2Weight, Param::GateFc2Bias].map(parameter);
    let routed = upload_mask(gpu, layer.row_mask.clone());
    let out = Gated {
        hidden: gpu.new_of(rows * hidden),
        logits: gpu.new_of(rows * e),
        probabilities: gpu.new_of(rows * e),
        chosen: gpu.new_of(rows * config.top_k),
        weights: gpu.new_of(rows * e),
        counters: gpu.new_of(16),
    };
    let args = GateForward {
        x: x.pointer(),
        fc1_weight: w1.pointer(),
        fc1_bias: b1.pointer(),
        fc2_weight: w2.pointer(),
        fc2_bias: b2.pointer(),
        routed: routed.pointer(),
        hidden: out.hidden.pointer(),
        logits: out.logits.pointer(),
        probabilities: out.probabilities.pointer(),
        chosen: out.chosen.pointer(),
        weights: out.weights.pointer(),
        counters: out.counters.pointer(),
        x_stride: (config.width + gap) as i64,
        rows: rows as i32,
        width: config.width as i32,
        hidden_width: hidden as i32,
        experts: e as i32,
        top_k: config.top_k as i32,
        activation: config.gate.hidden.map_or(0, |h| h.activation as i32),
        renormalise: config.renormalise.into(),
    };
    unsafe { gate::forward(&gpu.queue(), T::DTYPE, &args) }.unwrap();
    x.free().unwrap();
    out
}

/// What routing is given beside weights and choices.
#[derive(Clone, Debug)]
pub struct Routes {
    pub tokens: usize,
    pub samples: usize,
    pub layout: Layout,
    pub experts: usize,
    pub top_k: usize,
    /// 0: none.
    pub capacity: usize,
    pub batch: bool,
    pub shared: bool,
    pub tile_rows: usize,
    pub needed: Option<Vec<bool>>,
    pub counted: Option<Vec<bool>>,
}

/// What the routing's kernel gives, as far as it says that it is filled.
#[derive(Debug, PartialEq)]
pub struct Routed {
    pub weights: Vec<f32>,
    pub row_pairs: Vec<i32>,
    pub shared_pairs: Vec<i32>,
    pub expert_offsets: Vec<i32>,
    pub pair_row: Vec<i32>,
    pub pair_weight: Vec<f32>,
    pub tiles: Vec<(i32, i32)>,
    pub columns: Vec<f32>,
}

pub fn route_forward(gpu: &Gpu, r: &Routes, chosen: &Buffer<i32>, weights: &Buffer<f32>, counters: &Buffer<i32>) -> Routed {
    let (n, e) = (r.tokens * r.samples, r.experts);
    let scopes = if r.batch { 1 } else { r.samples };
    let most = if r.capacity == 0 { n * r.top_k } else { (n * r.top_k).min(scopes * e * r.capacity) };
    let most = most + if r.shared { n } else { 0 };
    let (needed, counted) = (upload_mask(gpu, r.needed.clone()), upload_mask(gpu, r.counted.clone()));
    let int = |len: usize| gpu.new_of::<i32>(len);
    // Not -1, which the kernel has to write: fresh memory of the emulation holds just that.
    let stale = |len: usize| gpu.put(&vec![7i32; len]);
    let (row_pairs, shared_pairs) = (stale(n * r.top_k), stale(if r.shared { n } else { 0 }));
    let (expert_offsets, pair_row) = (int(e + 2), int(most));
    let tiles = int(1 + 2 * limits::most_tiles(most, e + usize::from(r.shared), r.tile_rows));
    let counts = int(route::counts_len(gpu.driver.facts().multiprocessors, e).unwrap());
    let pair_weight = gpu.new_of::<f32>(most);
    let columns = gpu.new_of::<f32>(r.samples * e * 3);
    let kept = gpu.new_of::<u8>(n * e);
    let (token_stride, sample_stride) = r.layout.strides(r.tokens, r.samples);
    let args = RouteForward {
        chosen: chosen.pointer(),
        needed: needed.pointer(),
        counted: counted.pointer(),
        weights: weights.pointer(),
        row_pairs: row_pairs.pointer(),
        shared_pairs: shared_pairs.pointer(),
        expert_offsets: expert_offsets.pointer(),
        pair_row: pair_row.pointer(),
        pair_weight: pair_weight.pointer(),
        tiles: tiles.pointer(),
        columns: columns.pointer(),
        kept: kept.pointer(),
        counts: counts.pointer(),
        counters: counters.pointer(),
        tokens: r.tokens as i32,
        samples: r.samples as i32,
        token_stride: token_stride as i32,
        sample_stride: sample_stride as i32,
        experts: e as i32,
        top_k: r.top_k as i32,
        capacity: r.capacity as i32,
        batch_scope: r.batch.into(),
        tile_rows: r.tile_rows as i32,
    };
    unsafe { route::forward(&gpu.queue(), &args) }.unwrap();
    let expert_offsets = expert_offsets.to_vec().unwrap();
    let pairs = expert_offsets[e + 1] as usize;
    let tiles = tiles.to_vec().unwrap();
    let out = Routed {
        weights: weights.to_vec().unwrap(),
        row_pairs: row_pairs.to_vec().unwrap(),
        shared_pairs: shared_pairs.to_vec().unwrap(),
        pair_row: pair_row.to_vec().unwrap()[..pairs].to_vec(),
        pair_weight: pair_weight.to_vec().unwrap()[..pairs].to_vec(),
        tiles: (0..tiles[0] as usize).map(|i| (tiles[1 + 2 * i], tiles[2 + 2 * i])).collect(),
        columns: columns.to_vec().unwrap(),
        expert_offsets,
    };
    for buffer in [pair_row, row_pairs, shared_pairs, counts] {
        buffer.free().unwrap();
    }
    kept.free().unwrap();
    out
}
