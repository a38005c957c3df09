//! The routing's kernels on an emulated device.
#![cfg(feature = "emulate")]
// SAFETY: every buffer is as long as its kernel takes it for; the emulation checks that.
#![allow(unsafe_code)]

mod support;

use fair_moe::check::every_axis;
use fair_moe::gpu::args::RouteBackward;
use fair_moe::gpu::route;
use fair_moe::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use support::gpu::{Gpu, some_of};
use support::layer::Layer;
use support::rows::*;
use support::{assert_close, uniform};

/// Plain selection, by sorting: what routing must give for these choices and weights (-1: not chosen).
fn expected(r: &Routes, chosen: &[i32], weights: &[f32]) -> Routed {
    let (n, e, k) = (r.tokens * r.samples, r.experts, r.top_k);
    let place = |row: usize| match r.layout {
        Layout::TokensFirst => (row / r.samples, row % r.samples),
        Layout::SamplesFirst => (row % r.tokens, row / r.tokens),
    };
    let mut kept = vec![false; n * e];
    for expert in 0..e {
        let mut rows: Vec<usize> = (0..n).filter(|&row| weights[row * e + expert] != -1.0).collect();
        // NaN behind every number, then the lowest token, then the lowest sample.
        let rank = |row: usize| if weights[row * e + expert].is_nan() { -0.5 } else { weights[row * e + expert] };
        rows.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)).then(place(a).cmp(&place(b))));
        let mut taken = vec![0; r.samples];
        for row in rows {
            let scope = if r.batch { 0 } else { place(row).1 };
            taken[scope] += 1;
            kept[row * e + expert] = r.capacity == 0 || taken[scope] <= r.capacity;
        }
    }
    let needed = |row: usize| r.needed.as_ref().is_none_or(|mask| mask[row]);
    let weights: Vec<f32> = weights.iter().zip(&kept).map(|(&w, &kept)| if kept { w } else { 0.0 }).collect();
    let mut out = Routed {
        row_pairs: vec![-1; n * k],
        shared_pairs: if r.shared { vec![-1; n] } else { vec![] },
        expert_offsets: vec![],
        pair_row: vec![],
        pair_weight: vec![],
        tiles: vec![],
        columns: vec![],
        weights,
    };
    for expert in 0..=e {
        let first = out.pair_row.len();
        out.expert_offsets.push(first as i32);
        for row in (0..n).filter(|&row| needed(row) && if expert == e { r.shared } else { kept[row * e + expert] }) {
            let pair = out.pair_row.len() as i32;
            if expert == e {
                out.shared_pairs[row] = pair;
            } else {
                let choice = chosen[row * k..][..k].iter().position(|&c| c as usize == expert).unwrap();
                out.row_pairs[row * k + choice] = pair;
            }
            out.pair_row.push(row as i32);
            out.pair_weight.push(if expert == e { 1.0 } else { out.weights[row * e + expert] });
        }
        out.tiles.extend((first..out.pair_row.len()).step_by(r.tile_rows).map(|pair| (expert as i32, pair as i32)));
    }
    out.expert_offsets.push(out.pair_row.len() as i32);
    out
}

/// Everything but the columns, bit by bit; NaN is like NaN.
#[track_caller]
fn assert_same(name: &str, got: &Routed, want: &Routed) {
    let bits = |values: &[f32]| values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect::<Vec<u32>>();
    assert_eq!(got.expert_offsets, want.expert_offsets, "expert offsets, {name}");
    assert_eq!(got.pair_row, want.pair_row, "rows of pairs, {name}");
    assert_eq!(got.row_pairs, want.row_pairs, "pairs of rows, {name}");
    assert_eq!(got.shared_pairs, want.shared_pairs, "shared pairs, {name}");
    assert_eq!(got.tiles, want.tiles, "tiles, {name}");
    assert_eq!(bits(&got.weights), bits(&want.weights), "weights, {name}");
    assert_eq!(bits(&got.pair_weight), bits(&want.pair_weight), "weights of pairs, {name}");
}

/// Count, mean and M2 in f64 of the final weights.
#[track_caller]
fn assert_columns(name: &str, r: &Routes, got: &Routed) {
    let (token_stride, sample_stride) = r.layout.strides(r.tokens, r.samples);
    let mut want = vec![];
    for sample in 0..r.samples {
        for expert in 0..r.experts {
            let rows = (0..r.tokens).map(|t| t * token_stride + sample * sample_stride);
            let rows = rows.filter(|&row| r.counted.as_ref().is_none_or(|mask| mask[row]));
            let column: Vec<f64> = rows.map(|row| got.weights[row * r.experts + expert] as f64).collect();
            let mean = column.iter().sum::<f64>() / column.len().max(1) as f64;
            want.push([column.len() as f64, mean, column.iter().map(|w| (w - mean).powi(2)).sum()]);
        }
    }
    for (i, what) in ["counts", "means", "M2"].into_iter().enumerate() {
        let of: Vec<f64> = got.columns.iter().skip(i).step_by(3).map(|&v| v as f64).collect();
        assert_close(&format!("{what} of columns, {name}"), &of, &want.iter().map(|w| w[i]).collect::<Vec<_>>(), 1e-7);
    }
}

/// K distinct experts a row, with weights from `distinct` values, so that there are ties.
fn random(r: &Routes, distinct: u32, seed: u64) -> (Vec<i32>, Vec<f32>) {
    let mut rng = Pcg64::seed_from_u64(seed);
    let n = r.tokens * r.samples;
    let (mut chosen, mut weights) = (vec![], vec![-1.0; n * r.experts]);
    for row in 0..n {
        let mut experts: Vec<i32> = (0..r.experts as i32).collect();
        for k in 0..r.top_k {
            let other = k + (rng.random::<f64>() * (r.experts - k) as f64) as usize;
            experts.swap(k, other);
            chosen.push(experts[k]);
            weights[row * r.experts + experts[k] as usize] =
                (rng.random::<f64>() * distinct as f64).floor() as f32 / distinct as f32;
        }
    }
    (chosen, weights)
}

fn run(r: &Routes, chosen: &[i32], weights: &[f32], seed: u64) -> Routed {
    let gpu = Gpu::new(seed);
    let (chosen, weights) = (gpu.put(chosen), gpu.put(weights));
    route_forward(&gpu, r, &chosen, &weights, &gpu.put(&[0; 16]))
}

fn check(r: &Routes, distinct: u32, seed: u64) {
    let (chosen, weights) = random(r, distinct, seed);
    let got = run(r, &chosen, &weights, seed % 6);
    let name = format!("{r:?}");
    assert_same(&name, &got, &expected(r, &chosen, &weights));
    assert_columns(&name, r, &got);
}

fn routes(tokens: usize, samples: usize, experts: usize, top_k: usize, capacity: usize) -> Routes {
    let layout = Layout::TokensFirst;
    let (needed, counted) = (None, None);
    Routes { tokens, samples, layout, experts, top_k, capacity, batch: false, shared: false, tile_rows: 4, needed, counted }
}

fn mask(n: usize, seed: u64) -> Option<Vec<bool>> {
    Some(uniform(seed, n).iter().map(|v| *v > -0.3).collect())
}

#[test]
fn capacity_and_lists_are_those_of_a_plain_sort() {
    let sizes = [
        (1, 1, 1, 1, 0),
        (1, 9, 3, 3, 0),
        (11, 3, 5, 2, 1),
        (13, 3, 5, 5, 4),
        (33, 4, 7, 3, 9),
        (64, 2, 4, 2, 31),
        (40, 2, 300, 6, 2),
        (77, 3, 10, 3, 18),
        (320, 1, 3, 2, 70),
        (512, 1, 3, 2, 100),
    ];
    for (i, &(tokens, samples, experts, top_k, capacity)) in some_of(2, sizes.iter().enumerate()) {
        for variant in 0..4u64 {
            let seed = i as u64 * 4 + variant;
            let n = tokens * samples;
            let base = routes(tokens, samples, experts, top_k, capacity);
            let r = Routes {
                layout: if variant % 2 == 0 { Layout::TokensFirst } else { Layout::SamplesFirst },
                batch: variant >= 2,
                shared: i % 2 == 1,
                tile_rows: [1, 4, 128][i % 3],
                needed: mask(n, seed).filter(|_| (i + variant as usize) % 3 == 1),
                counted: mask(n, seed + 1).filter(|_| (i + variant as usize) % 3 == 2),
                ..base
            };
            check(&r, [3, 1, 1 << 20][i % 3], seed);
        }
    }
}

#[test]
fn a_block_selects_among_many_tokens_as_a_warp_does_among_few() {
    for (seed, distinct) in some_of(3, [(0, 5), (1, 1 << 20), (2, 1)]) {
        check(&Routes { counted: mask(1500, seed), ..routes(1500, 1, 3, 2, 400) }, distinct, seed);
        check(&Routes { layout: Layout::SamplesFirst, ..routes(700, 2, 2, 1, 123) }, distinct, seed + 3);
        check(&Routes { batch: true, tile_rows: 64, ..routes(300, 3, 2, 1, 300) }, distinct, seed + 1);
        check(&Routes { counted: mask(3000, seed), ..routes(3000, 1, 2, 1, 900) }, distinct, seed + 2);
    }
}

#[test]
fn a_million_tokens_of_one_sample() {
    let r = Routes { tile_rows: 128, ..routes(1 << 20, 1, 2, 1, 1000) };
    check(&r, 1 << 12, 3);
}

#[test]
fn nan_is_kept_after_every_number_and_a_weight_of_zero_is_a_pair() {
    let r = routes(5, 1, 1, 1, 3);
    let chosen = [0; 5];
    for (weights, kept) in [
        ([f32::NAN, 0.25, f32::NAN, 0.0, -1.0], vec![0, 1, 3]),
        ([f32::NAN, f32::NAN, f32::NAN, f32::NAN, 0.5], vec![0, 1, 4]),
        ([0.0, 0.0, 0.0, 0.0, 1e-30], vec![0, 1, 4]),
    ] {
        let got = run(&r, &chosen, &weights, 1);
        assert_eq!(got.pair_row, kept);
        assert_same("NaN", &got, &expected(&r, &chosen, &weights));
    }
}

#[test]
fn no_row_needed_gives_no_pair() {
    let r = Routes { needed: Some(vec![false; 33]), shared: true, ..routes(11, 3, 5, 2, 4) };
    let (chosen, weights) = random(&r, 7, 2);
    let got = run(&r, &chosen, &weights, 4);
    assert_eq!(got.expert_offsets, [0; 7]);
    assert!(got.tiles.is_empty());
    assert_same("none needed", &got, &expected(&r, &chosen, &weights));
}

fn routes_of(layer: &Layer) -> Routes {
    let config = &layer.config;
    Routes {
        layout: layer.layout,
        batch: config.capacity_scope == CapacityScope::Batch,
        shared: config.shared_expert,
        needed: needed(layer),
        counted: layer.row_mask.clone(),
        ..routes(
            layer.tokens,
            layer.samples,
            config.experts.count,
            config.top_k,
            config.capacity_of(layer.tokens, layer.samples).unwrap().unwrap_or(0),
        )
    }
}

#[test]
fn after_the_gate_every_axis_agrees_with_the_reference() {
    for (seed, (name, layer)) in some_of(4, every_axis().into_iter().enumerate()) {
        let gpu = Gpu::new(seed as u64 % 6);
        let gate = gate_forward::<f32>(&gpu, &layer, 0);
        let r = routes_of(&layer);
        let (chosen, weights) = (gate.chosen.to_vec().unwrap(), gate.weights.to_vec().unwrap());
        let got = route_forward(&gpu, &r, &gate.chosen, &gate.weights, &gate.counters);
        assert_same(name, &got, &expected(&r, &chosen, &weights));
        assert_columns(name, &r, &got);

        let want = reference::moe_forward(&layer.config, &layer.parameters.as_slices(), &layer.input(&layer.x)).unwrap().routing;
        let pairs = want.pairs();
        assert_eq!(got.pair_row[..pairs], want.pair_row.iter().map(|&row| row as i32).collect::<Vec<_>>(), "{name}");
        assert_eq!(got.row_pairs, want.row_pairs.iter().map(|&pair| pair as i32).collect::<Vec<_>>(), "{name}");
        let offsets: Vec<i32> = want.expert_offsets.iter().map(|&at| at as i32).collect();
        assert_eq!(got.expert_offsets[..offsets.len()], offsets, "{name}");
        assert_close(name, &got.weights.iter().map(|&w| w as f64).collect::<Vec<_>>(), &want.weights, 2e-5);
    }
}

/// A layer that gives dlogits back as dx: a linear gate whose logits are the first E elements of x, and experts that do not read x.
fn transparent(width: usize, experts: usize, change: impl Fn(&mut MoeConfig), seed: u64) -> Layer {
    let mut config = MoeConfig { gate: Gate { hidden: None, bias: true }, ..MoeConfig::token_paper(width) };
    config.experts = Experts { count: experts, width: 7, ..config.experts };
    change(&mut config);
    let mut layer = Layer::random(config, 9, 4, Layout::TokensFirst, seed);
    layer.parameters[Param::GateFc2Weight] = (0..experts * width).map(|i| f64::from(i / width == i % width)).collect();
    layer.parameters[Param::ExpertsFc1Weight].fill(0.0);
    layer
}

/// dlogits [N, E], from the reference's routing and what its experts say of each weight in `parts` parts.
fn backward<T: Element>(gpu: &Gpu, layer: &Layer, parts: usize) -> Vec<f64> {
    let (config, rows) = (&layer.config, layer.tokens * layer.samples);
    let (d, f, e) = (config.width, config.experts.width, config.experts.count);
    let routing = reference::moe_forward(config, &layer.parameters.as_slices(), &layer.input(&layer.x)).unwrap().routing;
    let (b1, w2) = (&layer.parameters[Param::ExpertsFc1Bias], &layer.parameters[Param::ExpertsFc2Weight]);
    let mut dweight_parts = vec![0.0; routing.pairs() * parts];
    for pair in 0..routing.pairs() {
        let expert = routing.expert_offsets.iter().rposition(|&at| at <= pair).unwrap();
        let dy = &layer.dy[routing.pair_row[pair] as usize * d..][..d];
        for j in 0..f {
            let inner = b1.get(expert * f + j).copied().unwrap_or(0.0);
            let back: f64 = dy.iter().enumerate().map(|(i, dy)| dy * w2[(expert * d + i) * f + j]).sum();
            dweight_parts[pair * parts + j % parts] += config.experts.activation.value(inner) * back;
        }
    }
    let f32s = |values: &[f64]| upload::<f32>(gpu, values);
    let optional = |values: &Option<Vec<f64>>| f32s(values.as_deref().unwrap_or_default());
    let ints = |values: &[u32]| gpu.put(&values.iter().map(|&v| v as i32).collect::<Vec<i32>>());
    let (probabilities, weights) = (f32s(&routing.probabilities), f32s(&routing.weights));
    let (chosen, row_pairs, dweight_parts) = (ints(&routing.chosen), ints(&routing.row_pairs), f32s(&dweight_parts));
    let (dy, fc2_bias) = (upload::<T>(gpu, &layer.dy), upload::<T>(gpu, &layer.parameters[Param::ExpertsFc2Bias]));
    let (dweights, dprobabilities) = (optional(&layer.dweights), optional(&layer.dprobabilities));
    let (dlogits_in, dlogits) = (optional(&layer.dlogits), gpu.new_of::<f32>(rows * e));
    let args = RouteBackward {
        probabilities: probabilities.pointer(),
        weights: weights.pointer(),
        chosen: chosen.pointer(),
        row_pairs: row_pairs.pointer(),
        dweight_parts: dweight_parts.pointer(),
        dy: dy.pointer(),
        fc2_bias: fc2_bias.pointer(),
        dweights: dweights.pointer(),
        dprobabilities: dprobabilities.pointer(),
        dlogits_in: dlogits_in.pointer(),
        dlogits: dlogits.pointer(),
        dy_stride: d as i64,
        rows: rows as i32,
        width: d as i32,
        experts: e as i32,
        top_k: config.top_k as i32,
        parts: parts as i32,
        renormalise: config.renormalise.into(),
    };
    unsafe { route::backward(&gpu.queue(), T::DTYPE, &args) }.unwrap();
    let got = to_f64(&dlogits);
    dlogits.free().unwrap();
    got
}

#[test]
fn the_way_back_agrees_with_the_reference() {
    type Change = fn(&mut MoeConfig);
    let cases: [(&str, usize, usize, Change); 9] = [
        ("raw", 13, 5, |c| c.top_k = 2),
        ("renormalised", 16, 5, |c| (c.top_k, c.renormalise) = (3, true)),
        ("renormalised, one choice", 40, 6, |c| (c.top_k, c.renormalise) = (1, true)),
        ("k = E", 24, 5, |c| (c.top_k, c.capacity) = (5, Capacity::None)),
        ("capacity 1", 264, 7, |c| (c.top_k, c.capacity, c.renormalise) = (4, Capacity::Fixed(1), true)),
        ("no biases", 8, 4, |c| (c.top_k, c.experts.bias) = (2, false)),
        ("many experts", 80, 70, |c| (c.top_k, c.renormalise) = (40, true)),
        ("an expert a lane", 40, 32, |c| (c.top_k, c.renormalise) = (32, true)),
        ("one expert more", 40, 33, |c| (c.top_k, c.renormalise) = (9, true)),
    ];
    for (turn, (name, width, experts, change)) in some_of(3, cases.into_iter().enumerate()) {
        for (variant, gpu) in Gpu::some(turn as u64).enumerate() {
            let mut layer = transparent(width, experts, change, turn as u64);
            match (turn + variant) % 4 {
                0 => (layer.dweights, layer.dlogits) = (None, None),
                1 => layer.row_mask = Some((0..36).map(|row| row % 4 != 1).collect()),
                2 => layer.rows_needed = Some(vec![0, 1, 2, 17, 32]),
                _ => layer.dprobabilities = None,
            }
            let dx = layer.reference().unwrap().dx;
            let want: Vec<f64> = dx.chunks(width).flat_map(|row| row[..experts].to_vec()).collect();
            let got = match turn % 3 {
                0 => backward::<f32>(&gpu, &layer, 1 + variant * 39),
                1 => backward::<half::bf16>(&gpu, &layer, 3),
                _ => backward::<half::f16>(&gpu, &layer, 7),
            };
            assert_close(&format!("dlogits, {name}, variant {variant}"), &got, &want, 2e-5);
        }
    }
}
