//! The experts' grouped products against plain sums in f64, each with every kind of segment, width and address.
#![cfg(feature = "emulate")]
// SAFETY: each buffer is as long as the sizes beside it say.
#![allow(unsafe_code)]

mod support;

use fair_moe::gpu::args::*;
use fair_moe::gpu::experts;
use fair_moe::gpu::plan::{Engine, Tile};
use fair_moe::{Activation, DType, Element};
use half::{bf16, f16};
use support::experts::{Case, SPARE, Setup, Tensor};
use support::gpu::{seeds, some_of};
use support::{assert_close, uniform};

fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 1.5e-3,
        _ => 7e-3,
    }
}

/// up and down; the latter's result.
fn forward<T: Element>(case: &Case) -> Vec<f64> {
    println!("{:?} {case:?}", T::DTYPE);
    let s = Setup::<T>::new(case);
    let (d, f, p) = (case.width, case.expert_width, case.pairs());
    let [experts_weights, shared_weights] = s.weights();
    let room = |width: usize| s.device.room::<T>(case.offset, case.before * width, (p + SPARE) * width);
    let (inner, glu, hidden, out) = (room(f), room(f), room(f), room(d));
    let act = Activation::ALL[case.activation];
    let (splits, counters, _room) = s.splits(d);
    let up = ExpertsUp {
        x: s.x.at(),
        experts_weights,
        shared_weights,
        pairs: s.list(),
        inner: inner.at(),
        glu: if case.gated { glu.at() } else { 0 },
        hidden: hidden.at(),
        arrived: splits.arrived,
        counters,
        x_stride: (d + case.gap) as i64,
        width: d as i32,
        expert_width: f as i32,
        experts: case.segments.len() as i32,
        activation: case.activation as i32,
        ..Default::default()
    };
    unsafe { experts::up(&s.device.queue(), T::DTYPE, case.whole_tile(T::DTYPE), &up, case.before + p + SPARE).unwrap() };
    let want_inner = s.linear(0, f, d, |p| s.x_of(p));
    let mut want_hidden: Vec<f64> = want_inner.iter().map(|&v| act.value(v)).collect();
    if case.gated {
        let want_glu = s.linear(2, f, d, |p| s.x_of(p));
        assert_close("glu", &s.device.written(&glu, p * f), &want_glu, bound(T::DTYPE));
        want_hidden = want_inner.iter().zip(&want_glu).map(|(&v, &g)| v * act.value(g)).collect();
    }
    assert_close("inner", &s.device.written(&inner, p * f), &want_inner, bound(T::DTYPE));
    let got_hidden = s.device.written(&hidden, p * f);
    assert_close("hidden", &got_hidden, &want_hidden, bound(T::DTYPE));

    let not_kept = room(f);
    let up = ExpertsUp { inner: 0, glu: 0, hidden: not_kept.at(), ..up };
    unsafe { experts::up(&s.device.queue(), T::DTYPE, case.whole_tile(T::DTYPE), &up, case.before + p + SPARE).unwrap() };
    assert_eq!(s.device.written(&not_kept, p * f), got_hidden, "the same bits, kept or not");

    let down = ExpertsDown {
        hidden: hidden.at(),
        experts_weights,
        shared_weights,
        pairs: s.list(),
        out: out.at(),
        splits,
        width: d as i32,
        expert_width: f as i32,
        experts: case.segments.len() as i32,
        ..Default::default()
    };
    unsafe { experts::down(&s.device.queue(), T::DTYPE, case.tile(T::DTYPE), &down, case.before + p + SPARE).unwrap() };
    let want = s.linear(4, d, f, |p| got_hidden[p * f..][..f].to_vec());
    let got = s.device.written(&out, p * d);
    assert_close("out", &got, &want, bound(T::DTYPE));
    got
}

/// dinner and dx, with random activations and gradients for what the stages before them give; the latter's result.
fn backward<T: Element>(case: &Case) -> Vec<f64> {
    println!("{:?} {case:?}", T::DTYPE);
    let s = Setup::<T>::new(case);
    let tile = case.tile(T::DTYPE);
    let (d, f, p, parts) = (case.width, case.expert_width, case.pairs(), experts::parts(case.expert_width, tile));
    let [experts_weights, shared_weights] = s.weights();
    let room = |width: usize| s.device.room::<T>(case.offset, case.before * width, (p + SPARE) * width);
    let (dinner, dglu, weighted, dx) = (room(f), room(f), room(f), room(d));
    let dweight_parts = s.device.room::<f32>(0, case.before * parts, (p + SPARE) * parts);
    // The host knows no more than a bound of the pairs: there is room for so many, which holds anything.
    let of_pairs = |seed: u64| [uniform(case.seed + seed, p * f), vec![f64::NAN; SPARE * f]].concat();
    let [inner, glu] = [2, 3].map(|seed| s.device.upload::<T>(case.offset, case.before * f, &of_pairs(seed)));
    let act = Activation::ALL[case.activation];
    let (splits, counters, _room) = s.splits(d);
    let args = ExpertsDinner {
        dy: s.x.at(),
        experts_weights,
        shared_weights,
        pairs: s.list(),
        inner: inner.at(),
        glu: if case.gated { glu.at() } else { 0 },
        dinner: dinner.at(),
        dglu: if case.gated { dglu.at() } else { 0 },
        weighted: weighted.at(),
        dweight_parts: dweight_parts.at(),
        arrived: splits.arrived,
        counters,
        dy_stride: (d + case.gap) as i64,
        width: d as i32,
        expert_width: f as i32,
        experts: case.segments.len() as i32,
        activation: case.activation as i32,
        parts: parts as i32,
        ..Default::default()
    };
    unsafe { experts::dinner(&s.device.queue(), T::DTYPE, case.whole_tile(T::DTYPE), &args, case.before + p + SPARE).unwrap() };
    let (mut want_dinner, mut want_dglu, mut want_weighted, mut want_parts) = (vec![], vec![], vec![], vec![0.0; p * parts]);
    for pair in 0..p {
        let (dy, fc2, w) = (s.x_of(pair), s.parameter(4, pair, d * f), s.pair_weight[pair]);
        for c in 0..f {
            let dhidden: f64 = (0..d).map(|k| dy[k] * fc2[k * f + c]).sum();
            let (v, g) = (inner.values[pair * f + c], glu.values[pair * f + c]);
            let hidden = if case.gated { v * act.value(g) } else { act.value(v) };
            want_dinner.push(w * dhidden * if case.gated { act.value(g) } else { act.slope(v) });
            want_dglu.push(w * dhidden * v * act.slope(g));
            want_weighted.push(w * hidden);
            want_parts[pair * parts + c / tile.columns] += dhidden * hidden;
        }
    }
    let bound = bound(T::DTYPE);
    let got_dinner = s.device.written(&dinner, p * f);
    assert_close("dinner", &got_dinner, &want_dinner, bound);
    assert_close("weighted", &s.device.written(&weighted, p * f), &want_weighted, bound);
    assert_close("dweight_parts", &s.device.written(&dweight_parts, p * parts), &want_parts, 2e-5);
    if case.gated {
        assert_close("dglu", &s.device.written(&dglu, p * f), &want_dglu, bound);
    }

    let args = ExpertsDx {
        dinner: inner.at(),
        dglu: if case.gated { glu.at() } else { 0 },
        experts_weights,
        shared_weights,
        pairs: s.list(),
        dx: dx.at(),
        splits,
        width: d as i32,
        expert_width: f as i32,
        experts: case.segments.len() as i32,
        ..Default::default()
    };
    unsafe { experts::dx(&s.device.queue(), T::DTYPE, case.tile(T::DTYPE), &args, case.before + p + SPARE).unwrap() };
    let mut want = vec![0.0; p * d];
    for (pair, want) in want.chunks_mut(d).enumerate() {
        let maps = [(&inner, 0), (&glu, 2)];
        for (from, number) in &maps[..if case.gated { 2 } else { 1 }] {
            let weight = s.parameter(*number, pair, f * d);
            for (k, row) in weight.chunks(d).enumerate() {
                want.iter_mut().zip(row).for_each(|(to, w)| *to += from.values[pair * f + k] * w);
            }
        }
    }
    let got = s.device.written(&dx, p * d);
    assert_close("dx", &got, &want, bound);
    got
}

/// What a gradient's memory holds before, and what is to be added to it.
struct Gradient<G> {
    memory: Tensor<G>,
    sums: Vec<f64>,
}

impl<G: Element> Gradient<G> {
    fn new<T: Element>(s: &Setup<T>, seed: u64, len: usize, accumulate: bool) -> Self {
        let before = if accumulate { uniform(seed, len) } else { vec![f64::NAN; len] };
        Self { memory: s.device.upload(s.case.offset, 0, &before), sums: vec![0.0; len] }
    }

    /// Adds `left` [M] times `right` [N] to expert e's.
    fn add(&mut self, e: usize, left: &[f64], right: &[f64]) {
        let (m, n) = (left.len(), right.len());
        for (row, l) in self.sums[e * m * n..][..m * n].chunks_mut(n).zip(left) {
            row.iter_mut().zip(right).for_each(|(to, r)| *to += l * r);
        }
    }

    fn check<T: Element>(&self, s: &Setup<T>, what: &str, accumulate: bool, bound: f64) {
        let before = |i: usize| if accumulate { self.memory.values[i] } else { 0.0 };
        let want: Vec<f64> = self.sums.iter().enumerate().map(|(i, sum)| before(i) + sum).collect();
        let got = s.device.written(&self.memory, self.sums.len());
        assert_close(what, &got, &want, bound);
        let untouched = self.sums.iter().enumerate().filter(|(_, sum)| **sum == 0.0);
        untouched.for_each(|(i, _)| assert_eq!(got[i], before(i), "{what}: an expert without rows"));
    }
}

/// dfc1 and dfc2, as gradients of type G.
fn gradients<T: Element, G: Element>(case: &Case, accumulate: bool) {
    println!("{:?} in {:?}, {accumulate}, {case:?}", T::DTYPE, G::DTYPE);
    let s = Setup::<T>::new(case);
    let (d, f, p, e) = (case.width, case.expert_width, case.pairs(), case.segments.len());
    let [dinner, dglu] = [2, 3].map(|seed| s.device.upload::<T>(case.offset, case.before * f, &uniform(case.seed + seed, p * f)));
    let sizes = [f * d, f, f * d, f, d * f, d];
    let gradient =
        |i: usize| Gradient::<G>::new(&s, case.seed + 50 + i as u64, if i < 6 { e } else { 1 } * sizes[i % 6], accumulate);
    let mut all: [Gradient<G>; 12] = std::array::from_fn(gradient);
    let places = |first: usize| {
        let at = |i: usize, there: bool| if there { all[first + i].memory.at() } else { 0 };
        let (bias, gated) = (case.bias, case.gated);
        ExpertGradients {
            fc1_weight: at(0, true),
            fc1_bias: at(1, bias),
            glu_weight: at(2, gated),
            glu_bias: at(3, gated && bias),
            fc2_weight: at(4, true),
            fc2_bias: at(5, bias),
        }
    };
    let (experts_gradients, shared_gradients) = (places(0), if case.shared.is_some() { places(6) } else { Default::default() });
    let (gradient_f32, has_shared) = (i32::from(G::DTYPE == DType::F32), i32::from(case.shared.is_some()));
    let args = ExpertsDfc1 {
        dinner: dinner.at(),
        dglu: if case.gated { dglu.at() } else { 0 },
        x: s.x.at(),
        pairs: s.list(),
        experts_gradients,
        shared_gradients,
        x_stride: (d + case.gap) as i64,
        width: d as i32,
        expert_width: f as i32,
        experts: e as i32,
        gradient_f32,
        accumulate: i32::from(accumulate),
        has_shared,
    };
    unsafe { experts::dfc1(&s.device.queue(), T::DTYPE, case.tile(T::DTYPE), &args, case.before + p + SPARE).unwrap() };
    let args = ExpertsDfc2 {
        dy: s.x.at(),
        weighted: dinner.at(),
        pairs: s.list(),
        experts_gradients,
        shared_gradients,
        dy_stride: (d + case.gap) as i64,
        width: d as i32,
        expert_width: f as i32,
        experts: e as i32,
        gradient_f32,
        accumulate: i32::from(accumulate),
        has_shared,
    };
    unsafe { experts::dfc2(&s.device.queue(), T::DTYPE, case.tile(T::DTYPE), &args, case.before + p + SPARE).unwrap() };

    for (pair, &w) in s.pair_weight.iter().enumerate() {
        let of = s.expert_of[pair];
        let (first, of) = if of == e { (6, 0) } else { (0, of) };
        let x = s.x_of(pair);
        for (number, from) in [(0, &dinner), (2, &dglu)] {
            let from = &from.values[pair * f..][..f];
            all[first + number].add(of, from, &x);
            all[first + number + 1].add(of, from, &[1.0]);
        }
        all[first + 4].add(of, &x, &dinner.values[pair * f..][..f]);
        all[first + 5].add(of, &x, &[w]);
    }
    for (i, what) in ["dfc1", "its bias", "dglu", "its bias", "dfc2", "its bias"].into_iter().cycle().take(12).enumerate() {
        let there = (case.bias || i % 2 == 0) && (case.gated || !(2..4).contains(&(i % 6))) && (i < 6 || case.shared.is_some());
        if there {
            all[i].check(&s, what, accumulate, bound(G::DTYPE));
        }
    }
}

/// Segments, widths on both sides of whole chunks and tiles, addresses and strides, over the seeds and modes; twice, unless only one
/// seed is asked for.
fn cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = vec![
        Case::new(&[1], 1, 1),
        Case::new(&[0, 37, 128, 0, 1], 64, 72),
        Case::new(&[200, 130], 136, 64),
        shared(130, Case::new(&[37, 0], 72, 136)),
        shared(5, Case::new(&[0], 13, 21)),
        Case { offset: 1, ..Case::new(&[128, 3, 0], 64, 64) },
        Case { offset: 3, gap: 5, bias: false, ..Case::new(&[37], 21, 133) },
        Case { gap: 8, ..Case::new(&[9, 130], 200, 8) },
        Case { gap: 3, ..Case::new(&[17, 0, 20], 64, 13) },
        Case { bias: false, ..Case::new(&[2, 2], 264, 200) },
        shared(0, Case::new(&[4, 40, 0, 3, 9], 328, 16)),
        Case::new(&[5], 21, 260),
    ];
    let (len, rounds) = (cases.len(), seeds().min(2) as usize);
    let vary = |(i, case): (usize, Case)| {
        // The second time round with gating turned about, and other seeds.
        let (again, seed) = (i >= len, i as u64 + if i >= len { 3 } else { 0 });
        Case { seed: seed % seeds(), activation: i % 4, gated: (i % 3 == 1) != again, ..case }
    };
    some_of(5, (0..rounds).flat_map(|_| cases.iter().cloned()).enumerate().map(vary)).collect()
}

#[test]
fn up_and_down_in_f32() {
    for case in cases() {
        forward::<f32>(&case);
    }
}

#[test]
fn up_and_down_in_f16() {
    for case in cases() {
        forward::<f16>(&case);
    }
}

#[test]
fn up_and_down_in_bf16() {
    for case in cases() {
        forward::<bf16>(&case);
    }
}

#[test]
fn dinner_and_dx_in_f32() {
    for case in cases() {
        backward::<f32>(&case);
    }
}

#[test]
fn dinner_and_dx_in_f16() {
    for case in cases() {
        backward::<f16>(&case);
    }
}

#[test]
fn dinner_and_dx_in_bf16() {
    for case in cases() {
        backward::<bf16>(&case);
    }
}

#[test]
fn gradients_in_f32() {
    cases().iter().enumerate().for_each(|(i, case)| gradients::<f32, f32>(case, i % 2 == 0));
}

#[test]
fn gradients_in_f16_or_f32() {
    cases().iter().enumerate().for_each(|(i, case)| {
        if i % 3 == 0 { gradients::<f16, f32>(case, i % 2 == 0) } else { gradients::<f16, f16>(case, i % 2 == 0) }
    });
}

#[test]
fn gradients_in_bf16_or_f32() {
    cases().iter().enumerate().for_each(|(i, case)| {
        if i % 3 == 1 { gradients::<bf16, f32>(case, i % 2 == 0) } else { gradients::<bf16, bf16>(case, i % 2 == 0) }
    });
}

/// Sizes in whole multiples of 16 bytes, with K of one to nine steps, so that tiles begin at every stage of the ring, and every end of a tile.
fn wgmma_cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = [
        Case::new(&[1], 8, 8),
        Case { offset: 8, ..Case::new(&[0, 37, 128, 0, 1], 64, 72) },
        Case::new(&[200, 130], 136, 64),
        shared(130, Case::new(&[37, 0], 200, 256)),
        Case { gap: 3, ..Case::new(&[300, 3, 0], 264, 136) },
        Case { gap: 8, bias: false, ..Case::new(&[70, 65], 328, 264) },
        shared(5, Case::new(&[0, 400], 24, 392)),
        Case::new(&[129], 520, 328),
        Case { bias: false, ..Case::new(&[64, 192], 392, 448) },
        shared(0, Case::new(&[448, 511], 128, 576)),
    ];
    let tile = |i: usize| Tile::new(Engine::Wgmma, 128, if i & 2 == 0 { 256 } else { 128 });
    let vary = |(i, case): (usize, &Case)| {
        let (gated, activation) = (i % 2 == 1, i % 4);
        let each = |more: usize| Case {
            seed: (i + more) as u64 % seeds(),
            activation,
            gated,
            tile: Some(tile(i + more)),
            ..case.clone()
        };
        [each(0), each(2)]
    };
    some_of(5, cases.iter().enumerate().flat_map(vary)).collect()
}

#[test]
fn up_and_down_by_wgmma() {
    for (i, case) in wgmma_cases().iter().enumerate() {
        if i % 3 == 0 {
            forward::<f16>(case)
        } else {
            forward::<bf16>(case)
        };
    }
}

#[test]
fn dinner_and_dx_by_wgmma() {
    for (i, case) in wgmma_cases().iter().enumerate() {
        if i % 3 == 1 {
            backward::<f16>(case)
        } else {
            backward::<bf16>(case)
        };
    }
}

#[test]
fn gradients_by_wgmma() {
    wgmma_cases().iter().enumerate().for_each(|(i, case)| match i % 3 {
        0 => gradients::<bf16, f32>(case, i % 2 == 0),
        1 => gradients::<bf16, bf16>(case, i % 4 == 0),
        _ => gradients::<f16, f16>(case, i % 2 == 0),
    });
}

/// Tiles of few rows, whole and split among blocks, of which there are more than steps in some; on segments around those rows, all pairs in
/// one of them or none in most, and on widths and addresses of every kind.
fn small_cases() -> Vec<Case> {
    let shared = |shared: usize, case: Case| Case { shared: Some(shared), ..case };
    let cases = [
        Case::new(&[1], 1, 1),
        Case::new(&[19, 0, 40, 1], 136, 72),
        shared(33, Case::new(&[17, 0], 72, 328)),
        Case { offset: 1, ..Case::new(&[128, 3, 0], 64, 200) },
        Case { offset: 3, gap: 5, bias: false, ..Case::new(&[37], 21, 133) },
        Case { gap: 8, ..Case::new(&[9, 65, 16, 32], 200, 8) },
        shared(0, Case::new(&[0, 70, 0, 0, 0], 264, 16)),
        Case { bias: false, ..Case::new(&[64], 13, 520) },
    ];
    let tiles = [16, 32, 64].into_iter().flat_map(|rows| [1, 2, 3, 5].map(|splits| (rows, splits))).enumerate();
    let all = tiles.flat_map(|(t, (rows, splits))| {
        let vary = move |(i, case): (usize, &Case)| Case {
            seed: (i + t) as u64 % seeds(),
            activation: i % 4,
            gated: (i + t / 2) % 2 == 1,
            tile: Some(Tile { splits, ..Tile::new(Engine::Mma, rows, 128) }),
            ..case.clone()
        };
        cases.iter().enumerate().skip(t % 2).step_by(2).map(vary).collect::<Vec<_>>()
    });
    some_of(5, all).collect()
}

#[test]
fn up_and_down_by_tiles_of_few_rows() {
    for (i, case) in small_cases().iter().enumerate() {
        if i % 3 == 0 {
            forward::<f16>(case)
        } else {
            forward::<bf16>(case)
        };
    }
}

#[test]
fn dinner_and_dx_by_tiles_of_few_rows() {
    for (i, case) in small_cases().iter().enumerate() {
        if i % 3 == 1 {
            backward::<f16>(case)
        } else {
            backward::<bf16>(case)
        };
    }
}

/// Three parts or more, whose sum depends on their order.
#[test]
fn split_sums_have_the_same_bits_whoever_comes_last() {
    for (rows, splits) in [(32, 3), (16, 5)] {
        let tile = Some(Tile { splits, ..Tile::new(Engine::Mma, rows, 128) });
        let case = |schedule: u64| Case { tile, schedule, ..Case::new(&[40, 23], 400, 328) };
        let (out, dx) = (forward::<f16>(&case(0)), backward::<f16>(&case(0)));
        for schedule in 1..seeds() {
            assert_eq!(forward::<f16>(&case(schedule)), out, "down");
            assert_eq!(backward::<f16>(&case(schedule)), dx, "dx");
        }
    }
}

/// Every tensor over rows or pairs has more than 2^31 elements here, nearly all of them in memory that nobody touches.
#[test]
fn offsets_beyond_2_to_31() {
    for case in [Case::new(&[0, 3], 64, 64), Case { offset: 1, gated: true, ..Case::new(&[2, 2], 64, 64) }] {
        let case = Case { before: 1 << 25, ..case };
        forward::<bf16>(&case);
        backward::<bf16>(&case);
        gradients::<bf16, f32>(&case, false);
    }
}

#[test]
fn no_pairs_at_all_write_zeros_to_gradients_alone() {
    let case = Case { shared: Some(0), ..Case::new(&[0, 0], 24, 40) };
    forward::<f32>(&case);
    backward::<bf16>(&case);
    gradients::<bf16, bf16>(&case, false);
    gradients::<f32, f32>(&case, true);
}

#[test]
fn wrong_arguments_are_refused_in_one_sentence() {
    let s = Setup::<f32>::new(&Case::new(&[3], 8, 8));
    let [experts_weights, _] = s.weights();
    let right = ExpertsDown {
        hidden: s.x.at(),
        experts_weights,
        pairs: s.list(),
        out: s.x.at(),
        width: 8,
        expert_width: 8,
        experts: 1,
        ..Default::default()
    };
    let down = |args: ExpertsDown, dtype: DType, pairs: usize| {
        unsafe { experts::down(&s.device.queue(), dtype, s.case.tile(dtype), &args, pairs) }.unwrap_err().to_string()
    };
    assert_eq!(down(ExpertsDown { out: 0, ..right }, DType::F32, 3), "out must be given, but is none");
    assert!(down(ExpertsDown { width: 0, ..right }, DType::F32, 3).starts_with("the width must be from 1"));
    assert!(down(right, DType::F64, 3).starts_with("the dtype on a GPU must be f32, f16 or bf16"));
    assert!(down(right, DType::F32, usize::MAX).starts_with("the number of pairs must be at most"));
    assert!(down(ExpertsDown { width: i32::MAX - 2000, ..right }, DType::F32, 1 << 30).contains("too large"));
    let parts = ExpertsDinner {
        dy: s.x.at(),
        experts_weights,
        pairs: s.list(),
        inner: s.x.at(),
        dinner: s.x.at(),
        weighted: s.x.at(),
        dweight_parts: s.x.at(),
        dy_stride: 8,
        width: 8,
        expert_width: 8,
        experts: 1,
        parts: 2,
        ..Default::default()
    };
    let refused =
        unsafe { experts::dinner(&s.device.queue(), DType::F32, s.case.tile(DType::F32), &parts, 3) }.unwrap_err().to_string();
    assert_eq!(refused, "the number of parts must be 1, but is 2");
}
