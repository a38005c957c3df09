//! The experts' grouped products of a [`Case`], checked against plain sums in f64.

// SAFETY: each buffer is as long as the sizes beside it say.
#![allow(unsafe_code)]

use super::experts::{Case, SPARE, Setup, Tensor};
use super::{assert_close, uniform};
use fair_moe::gpu::args::*;
use fair_moe::gpu::experts;
use fair_moe::{Activation, DType, Element};

fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 1.5e-3,
        _ => 7e-3,
    }
}

/// up and down; the latter's result.
pub fn forward<T: Element>(case: &Case) -> Vec<f64> {
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
    let want_inner = s.linear(0, f, d, |p| s.x_of(p));
    if case.folded_alone() {
        let want_hidden: Vec<f64> = want_inner.iter().map(|&v| act.value(v)).collect();
        return folded_forward(&s, &up, &down, &want_hidden);
    }
    unsafe { experts::up(&s.device.queue(), T::DTYPE, case.whole_tile(T::DTYPE), &up, case.before + p + SPARE).unwrap() };
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

    unsafe { experts::down(&s.device.queue(), T::DTYPE, case.tile(T::DTYPE), &down, case.before + p + SPARE).unwrap() };
    let want = s.linear(4, d, f, |p| got_hidden[p * f..][..f].to_vec());
    let got = s.device.written(&out, p * d);
    assert_close("out", &got, &want, bound(T::DTYPE));
    if act == Activation::Relu && !case.gated {
        folded_forward(&s, &up, &down, &want_hidden);
    }
    got
}

/// hidden and out times each pair's weight.
fn folded_forward<T: Element>(s: &Setup<T>, up: &ExpertsUp, down: &ExpertsDown, hidden: &[f64]) -> Vec<f64> {
    let (d, f, p, pairs) = (s.case.width, s.case.expert_width, s.case.pairs(), s.case.before + s.case.pairs() + SPARE);
    let room = |width: usize| s.device.room::<T>(s.case.offset, s.case.before * width, (p + SPARE) * width);
    let (weighted, out) = (room(f), room(d));
    let up = ExpertsUp { hidden: weighted.at(), inner: 0, folded: 1, ..*up };
    let down = ExpertsDown { hidden: weighted.at(), out: out.at(), folded: 1, ..*down };
    unsafe {
        experts::up(&s.device.queue(), T::DTYPE, s.case.whole_tile(T::DTYPE), &up, pairs).unwrap();
        experts::down(&s.device.queue(), T::DTYPE, s.case.tile(T::DTYPE), &down, pairs).unwrap();
    }
    let want: Vec<f64> = hidden.iter().enumerate().map(|(i, h)| h * s.pair_weight[i / f]).collect();
    let got = s.device.written(&weighted, p * f);
    assert_close("hidden, weighted", &got, &want, bound(T::DTYPE));
    let zeros = vec![0.0; f];
    let bias = s.linear(4, d, f, |_| zeros.clone());
    let of_hidden = s.linear(4, d, f, |p| got[p * f..][..f].to_vec());
    let want: Vec<f64> = of_hidden.iter().zip(&bias).enumerate().map(|(i, (v, b))| v - b + b * s.pair_weight[i / d]).collect();
    let got = s.device.written(&out, p * d);
    assert_close("out, weighted", &got, &want, bound(T::DTYPE));
    got
}

/// Two random tensors of F columns. The host knows no more than a bound of the pairs: there is room for so many, which holds anything.
fn of_pairs<T: Element>(s: &Setup<T>) -> [Tensor<T>; 2] {
    let (case, f) = (&s.case, s.case.expert_width);
    [2, 3].map(|seed| {
        let values = [uniform(case.seed + seed, case.pairs() * f), vec![f64::NAN; SPARE * f]].concat();
        s.device.upload::<T>(case.offset, case.before * f, &values)
    })
}

/// dinner and dx, with random activations and gradients for what the stages before them give; the latter's result.
pub fn backward<T: Element>(case: &Case) -> Vec<f64> {
    println!("{:?} {case:?}", T::DTYPE);
    let s = Setup::<T>::new(case);
    let tile = case.tile(T::DTYPE);
    let (d, f, p, parts) = (case.width, case.expert_width, case.pairs(), experts::parts(case.expert_width, tile));
    let [experts_weights, shared_weights] = s.weights();
    let room = |width: usize| s.device.room::<T>(case.offset, case.before * width, (p + SPARE) * width);
    let (dinner, dglu, weighted, dx) = (room(f), room(f), room(f), room(d));
    let dweight_parts = s.device.room::<f32>(0, case.before * parts, (p + SPARE) * parts);
    let [inner, glu] = of_pairs(&s);
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
    if !case.folded_alone() {
        let bound = bound(T::DTYPE);
        unsafe {
            experts::dinner(&s.device.queue(), T::DTYPE, case.whole_tile(T::DTYPE), &args, case.before + p + SPARE).unwrap()
        };
        assert_close("dinner", &s.device.written(&dinner, p * f), &want_dinner, bound);
        assert_close("weighted", &s.device.written(&weighted, p * f), &want_weighted, bound);
        assert_close("dweight_parts", &s.device.written(&dweight_parts, p * parts), &want_parts, 2e-5);
        if case.gated {
            assert_close("dglu", &s.device.written(&dglu, p * f), &want_dglu, bound);
        }
    }
    if act == Activation::Relu && !case.gated {
        folded_dinner(&s, &args, &inner.values, &want_dinner, &want_parts);
    }

    let args = ExpertsDx { splits, ..dx_args(&s, [&inner, &glu], &dx) };
    unsafe { experts::dx(&s.device.queue(), T::DTYPE, case.tile(T::DTYPE), &args, case.before + p + SPARE).unwrap() };
    check_dx(&s, [&inner, &glu], &dx)
}

/// Of what the stage before left, and where to.
fn dx_args<T: Element>(s: &Setup<T>, [dinner, dglu]: [&Tensor<T>; 2], to: &Tensor<T>) -> ExpertsDx {
    let [experts_weights, shared_weights] = s.weights();
    ExpertsDx {
        dinner: dinner.at(),
        dglu: if s.case.gated { dglu.at() } else { 0 },
        experts_weights,
        shared_weights,
        pairs: s.list(),
        dx: to.at(),
        width: s.case.width as i32,
        expert_width: s.case.expert_width as i32,
        experts: s.case.segments.len() as i32,
        ..Default::default()
    }
}

fn check_dx<T: Element>(s: &Setup<T>, [dinner, dglu]: [&Tensor<T>; 2], dx: &Tensor<T>) -> Vec<f64> {
    let (case, d, f, p) = (&s.case, s.case.width, s.case.expert_width, s.case.pairs());
    let mut want = vec![0.0; p * d];
    for (pair, want) in want.chunks_mut(d).enumerate() {
        let maps = [(dinner, 0), (dglu, 2)];
        for (from, number) in &maps[..if case.gated { 2 } else { 1 }] {
            let weight = s.parameter(*number, pair, f * d);
            for (k, row) in weight.chunks(d).enumerate() {
                want.iter_mut().zip(row).for_each(|(to, w)| *to += from.values[pair * f + k] * w);
            }
        }
    }
    let got = s.device.written(dx, p * d);
    assert_close("dx", &got, &want, bound(T::DTYPE));
    got
}

/// The same from the weighted hidden layer, which is rounded, and is the one that backward has.
fn folded_dinner<T: Element>(s: &Setup<T>, args: &ExpertsDinner, inner: &[f64], dinner: &[f64], parts: &[f64]) {
    let case = &s.case;
    let (f, p) = (case.expert_width, case.pairs());
    let mut kept: Vec<f64> = inner[..p * f].iter().enumerate().map(|(i, v)| v.max(0.0) * s.pair_weight[i / f]).collect();
    kept.resize((p + SPARE) * f, f64::NAN);
    let kept = s.device.upload::<T>(case.offset, case.before * f, &kept);
    let to = s.device.room::<T>(case.offset, case.before * f, (p + SPARE) * f);
    let part = s.device.room::<f32>(0, case.before * args.parts as usize, (p + SPARE) * args.parts as usize);
    let args = ExpertsDinner { inner: kept.at(), dinner: to.at(), weighted: 0, dweight_parts: part.at(), folded: 1, ..*args };
    let pairs = case.before + p + SPARE;
    unsafe { experts::dinner(&s.device.queue(), T::DTYPE, case.whole_tile(T::DTYPE), &args, pairs).unwrap() };
    assert_close("dinner, folded", &s.device.written(&to, p * f), dinner, bound(T::DTYPE));
    assert_close("dweight_parts, folded", &s.device.written(&part, p * args.parts as usize), parts, bound(T::DTYPE));
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
pub fn gradients<T: Element, G: Element>(case: &Case, accumulate: bool) {
    after_dinner::<T, G>(case, accumulate, false);
}

/// The same and dx in one launch.
pub fn merged<T: Element, G: Element>(case: &Case, accumulate: bool) {
    after_dinner::<T, G>(case, accumulate, true);
}

fn after_dinner<T: Element, G: Element>(case: &Case, accumulate: bool, merged: bool) {
    println!("{:?} in {:?}, {accumulate}, {case:?}", T::DTYPE, G::DTYPE);
    let s = Setup::<T>::new(case);
    let (d, f, p, e) = (case.width, case.expert_width, case.pairs(), case.segments.len());
    let [dinner, dglu] = of_pairs(&s);
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
    let dfc1 = ExpertsDfc1 {
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
        ..Default::default()
    };
    let dfc2 = ExpertsDfc2 {
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
        ..Default::default()
    };
    let (queue, tile, pairs) = (s.device.queue(), case.tile(T::DTYPE), case.before + p + SPARE);
    if merged {
        let to = s.device.room::<T>(case.offset, case.before * d, (p + SPARE) * d);
        let dx = dx_args(&s, [&dinner, &dglu], &to);
        unsafe { experts::merged(&queue, T::DTYPE, tile, &ExpertsMerged { dfc2, dfc1, dx }, pairs).unwrap() };
        check_dx(&s, [&dinner, &dglu], &to);
    } else {
        unsafe { experts::dfc1(&queue, T::DTYPE, tile, &dfc1, pairs).unwrap() };
        unsafe { experts::dfc2(&queue, T::DTYPE, tile, &dfc2, pairs).unwrap() };
    }

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
