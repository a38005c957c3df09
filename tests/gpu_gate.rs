//! The gate's kernels on an emulated device.
#![cfg(feature = "emulate")]
// SAFETY: every buffer is as long as its kernel takes it for; the emulation checks that.
#![allow(unsafe_code)]

mod support;

use fair_moe::check::every_axis;
use fair_moe::gpu::args::{GateBackwardRows, GateBackwardWeights};
use fair_moe::gpu::gate;
use fair_moe::*;
use half::{bf16, f16};
use support::gpu::{Gpu, seeds, some_of};
use support::layer::Layer;
use support::rows::*;
use support::{assert_close, relative_l2};

/// A layer of one narrow expert layer behind the gate, which is all that is looked at.
fn gated(width: usize, hidden: Option<usize>, experts: usize, top_k: usize, rows: usize, seed: u64) -> Layer {
    let mut config = MoeConfig { width, top_k, capacity: Capacity::None, ..MoeConfig::token_paper(width) };
    config.gate.hidden = hidden.map(|width| GateHidden { width, activation: Activation::ALL[seed as usize % 4] });
    config.experts = Experts { count: experts, width: 1, ..config.experts };
    config.renormalise = seed % 2 == 1;
    Layer::random(config, rows, 1, Layout::TokensFirst, seed)
}

fn reference(layer: &Layer) -> Routing<f64> {
    reference::moe_forward(&layer.config, &layer.parameters.as_slices(), &layer.input(&layer.x)).unwrap().routing
}

fn check<T: Element>(name: &str, layer: &Layer, seed: u64, gap: usize) {
    let (got, want) = (gate_forward::<T>(&Gpu::new(seed), layer, gap), reference(layer));
    let name = format!("{name} in {}", T::DTYPE);
    assert_close(&format!("hidden of {name}"), &to_f64(&got.hidden), &want.hidden, 2e-5);
    assert_close(&format!("logits of {name}"), &to_f64(&got.logits), &want.logits, 2e-5);
    assert_close(&format!("probabilities of {name}"), &to_f64(&got.probabilities), &want.probabilities, 2e-5);
    assert_eq!(got.chosen.to_vec().unwrap(), want.chosen.iter().map(|&c| c as i32).collect::<Vec<_>>(), "{name}");
    assert_eq!(got.counters.to_vec().unwrap(), [0; 16]);
    assert_weights(&name, layer, &got);
}

/// Weights before capacity follow from the kernel's own probabilities.
fn assert_weights(name: &str, layer: &Layer, got: &Gated) {
    let (e, k) = (layer.config.experts.count, layer.config.top_k);
    let (probabilities, chosen) = (got.probabilities.to_vec().unwrap(), got.chosen.to_vec().unwrap());
    let mut want = vec![-1.0f32; probabilities.len()];
    for row in (0..chosen.len() / k).filter(|&row| layer.row_mask.as_ref().is_none_or(|mask| mask[row])) {
        let of = |c: i32| probabilities[row * e + c as usize];
        let chosen = &chosen[row * k..][..k];
        let total = if layer.config.renormalise { chosen.iter().fold(0.0, |sum, &c| sum + of(c)) } else { 1.0 };
        chosen.iter().for_each(|&c| want[row * e + c as usize] = of(c) / total);
    }
    assert_eq!(got.weights.to_vec().unwrap(), want, "weights of {name}");
}

#[test]
fn every_axis_agrees_with_the_reference() {
    for (seed, (name, layer)) in some_of(4, every_axis().into_iter().enumerate()) {
        match seed % 3 {
            0 => check::<f32>(name, &layer, seed as u64 % 6, 0),
            1 => check::<bf16>(name, &layer, seed as u64 % 6, 0),
            _ => check::<f16>(name, &layer, seed as u64 % 6, 0),
        }
    }
}

#[test]
fn any_width_and_any_number_of_experts() {
    let shapes = [
        (1, None, 1, 1, 1),
        (1, Some(1), 2, 1, 3),
        (13, Some(21), 5, 5, 70),
        (100, None, 65, 3, 65),
        (16, Some(64), 64, 8, 64),
        (17, Some(129), 40, 7, 200),
        (33, Some(8), 300, 300, 9),
        (32, None, 300, 4, 130),
        (264, Some(70), 6, 2, 80),
        (200, None, 9, 2, 70),
        (40, Some(96), 32, 5, 530),
        (40, Some(64), 6, 6, 530),
        (72, Some(300), 10, 3, 150),
        (16, Some(520), 33, 4, 20),
        (130, Some(192), 10, 3, 1),
    ];
    for (seed, (width, hidden, experts, top_k, rows)) in some_of(4, shapes.into_iter().enumerate()) {
        let layer = gated(width, hidden, experts, top_k, rows, seed as u64);
        let name = format!("{:?}", shapes[seed]);
        check::<f32>(&name, &layer, seed as u64, seed % 3);
        check::<bf16>(&name, &layer, seed as u64 + 1, seed % 2);
    }
}

#[test]
fn all_seeds_give_the_same_bits() {
    let layer = gated(40, Some(70), 12, 3, 150, 2);
    let first = gate_forward::<f16>(&Gpu::new(0), &layer, 0);
    for seed in 1..=seeds() {
        let other = gate_forward::<f16>(&Gpu::new(seed), &layer, 0);
        assert_eq!(first.probabilities.to_vec().unwrap(), other.probabilities.to_vec().unwrap());
        assert_eq!(first.weights.to_vec().unwrap(), other.weights.to_vec().unwrap());
    }
}

/// A linear gate whose logits are x itself.
fn identity(experts: usize, top_k: usize, logits: &[f64]) -> Layer {
    let mut layer = gated(experts, None, experts, top_k, logits.len() / experts, 0);
    layer.config.gate.bias = false;
    layer.parameters[Param::GateFc2Weight] = (0..experts * experts).map(|i| f64::from(i % (experts + 1) == 0)).collect();
    layer.parameters[Param::GateFc2Bias] = vec![];
    layer.x = logits.to_vec();
    layer
}

#[test]
fn ties_go_to_the_lowest_expert_and_vanishing_probabilities_are_told_apart() {
    let choices =
        |experts, k, logits: &[f64]| gate_forward::<f32>(&Gpu::new(3), &identity(experts, k, logits), 0).chosen.to_vec();
    let tied = [1.0, 1.0, 1.0, 1.0, 0.0, 2.0, 2.0, 2.0, 0.0, -0.0, 0.0, 3.0];
    assert_eq!(choices(4, 2, &tied).unwrap(), [0, 1, 1, 2, 3, 0]);
    assert_eq!(choices(4, 4, &tied).unwrap(), [0, 1, 2, 3, 1, 2, 3, 0, 3, 0, 1, 2]);
    assert_eq!(choices(3, 2, &[-500.0, 0.0, -400.0]).unwrap(), [1, 2]);
    assert_eq!(choices(70, 3, &[0.5; 140]).unwrap(), [0, 1, 2, 0, 1, 2]);
    let large = gate_forward::<f32>(&Gpu::new(1), &identity(3, 1, &[1e30, -1e30, 9e29]), 0);
    assert_eq!(large.probabilities.to_vec().unwrap(), [1.0, 0.0, 0.0]);
}

#[test]
fn nan_is_chosen_last_and_stays_in_its_row() {
    let mut layer = gated(8, None, 5, 5, 3, 4);
    layer.parameters[Param::GateFc2Bias][1] = f64::NAN;
    let chosen = gate_forward::<f32>(&Gpu::new(2), &layer, 0).chosen.to_vec().unwrap();
    assert!(chosen.chunks(5).all(|row| row[4] == 1), "{chosen:?}");

    let mut layer = gated(12, Some(9), 6, 2, 70, 4);
    let clean = to_f64(&gate_forward::<bf16>(&Gpu::new(0), &layer, 0).probabilities);
    layer.x[10 * 12 + 5] = f64::NAN;
    let got = gate_forward::<bf16>(&Gpu::new(5), &layer, 0);
    let (probabilities, chosen) = (to_f64(&got.probabilities), got.chosen.to_vec().unwrap());
    assert!(probabilities[60..66].iter().all(|p| p.is_nan()));
    assert_eq!(chosen[20..22], [0, 1]);
    assert_eq!(relative_l2(&probabilities[..60], &clean[..60]), 0.0);
    assert_eq!(relative_l2(&probabilities[66..], &clean[66..]), 0.0);
}

#[test]
fn what_cannot_be_launched_is_refused() {
    use fair_moe::gpu::args::GateForward;
    let gpu = Gpu::new(0);
    let refused = |args: &GateForward| unsafe { gate::forward(&gpu.queue(), DType::F32, args) }.unwrap_err().to_string();
    let good = GateForward { rows: 1, width: 1, experts: 2, top_k: 1, ..Default::default() };
    assert_eq!(refused(&GateForward { rows: 0, ..good }), "the number of rows must be at least 1, but is 0");
    assert_eq!(refused(&GateForward { top_k: 3, ..good }), "top-k must be from 1 to the number of experts, 2, but is 3");
    assert_eq!(refused(&good), "x must be given, but is none");
    let f64 = unsafe { gate::forward(&gpu.queue(), DType::F64, &good) };
    assert!(f64.is_err());
}

/// What the gate's backward kernels give: dx, and the gradients of fc1's weight and bias and of fc2's.
struct Back {
    dx: Vec<f64>,
    gradients: [Vec<f64>; 4],
}

const PARAMS: [Param; 4] = [Param::GateFc1Weight, Param::GateFc1Bias, Param::GateFc2Weight, Param::GateFc2Bias];

/// With parameter gradients in G, added to `before`.
fn backward<T: Element, G: Element>(gpu: &Gpu, layer: &Layer, splits: Option<usize>, before: Option<f64>) -> Back {
    let (config, rows) = (&layer.config, layer.tokens * layer.samples);
    let (h, e, d) = (config.gate.hidden.map_or(0, |h| h.width), config.experts.count, config.width);
    let activation = config.gate.hidden.map_or(0, |h| h.activation as i32);
    let parameter = |p: Param| upload::<T>(gpu, &layer.parameters[p]);
    let (fc1, fc2) = (parameter(Param::GateFc1Weight), parameter(Param::GateFc2Weight));
    // Rows that begin at even elements, with something behind them that is not to be read, and nothing behind the last.
    let x_stride = d.next_multiple_of(2);
    let padded = layer.x.chunks(d).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(f64::NAN, x_stride - d)));
    let x = upload::<T>(gpu, &padded.take(rows * x_stride - (x_stride - d)).collect::<Vec<_>>());
    let dlogits = upload::<f32>(gpu, layer.dlogits.as_ref().unwrap());
    let hidden = gate_forward::<T>(gpu, layer, 0).hidden;
    let cut = gate::Cut::new(gpu.driver.facts().multiprocessors, T::DTYPE, rows, d, h, e).unwrap();
    let cut = gate::Cut { splits: splits.unwrap_or(cut.splits), ..cut };
    let (dhidden, dx) = (gpu.new_of::<f32>(rows * h), gpu.new_of::<T>(rows * d));
    let counters = gpu.new_of::<i32>(cut.tiles);
    let args = GateBackwardRows {
        dlogits: dlogits.pointer(),
        hidden: hidden.pointer(),
        fc1_weight: fc1.pointer(),
        fc2_weight: fc2.pointer(),
        dhidden: dhidden.pointer(),
        dx: dx.pointer(),
        counters: counters.pointer(),
        rows: rows as i32,
        width: d as i32,
        hidden_width: h as i32,
        experts: e as i32,
        activation,
        tiles: cut.tiles as i32,
    };
    unsafe { gate::backward_rows(&gpu.queue(), T::DTYPE, &args) }.unwrap();
    let parts = gpu.new_of::<f32>(cut.parts_len().unwrap());
    let gradients = PARAMS.map(|p| upload::<G>(gpu, &vec![before.unwrap_or(f64::NAN); layer.parameters[p].len()]));
    let args = GateBackwardWeights {
        x: x.pointer(),
        dlogits: dlogits.pointer(),
        hidden: hidden.pointer(),
        dhidden: dhidden.pointer(),
        dfc1_weight: gradients[0].pointer(),
        dfc1_bias: gradients[1].pointer(),
        dfc2_weight: gradients[2].pointer(),
        dfc2_bias: gradients[3].pointer(),
        parts: parts.pointer(),
        counters: counters.pointer(),
        x_stride: x_stride as i64,
        rows: rows as i32,
        width: d as i32,
        hidden_width: h as i32,
        experts: e as i32,
        activation,
        gradient_f32: (G::DTYPE == DType::F32).into(),
        accumulate: before.is_some().into(),
        splits: cut.splits as i32,
    };
    unsafe { gate::backward_weights(&gpu.queue(), T::DTYPE, &args) }.unwrap();
    let back = Back { dx: to_f64(&dx), gradients: gradients.each_ref().map(to_f64) };
    gradients.into_iter().for_each(|g| g.free().unwrap());
    dx.free().unwrap();
    parts.free().unwrap();
    back
}

/// Behind a layer whose only gradient is that on the logits, dx and the gate's gradients are the gate's alone.
fn check_back<T: Element, G: Element>(name: &str, layer: &Layer, gpu: &Gpu, splits: Option<usize>, before: Option<f64>) {
    let mut layer = layer.clone();
    (layer.dweights, layer.dprobabilities) = (None, None);
    layer.dy.fill(0.0);
    let (got, want) = (backward::<T, G>(gpu, &layer, splits, before), layer.reference().unwrap());
    let of = |dtype: DType| match dtype {
        DType::Bf16 => 7e-3,
        DType::F16 => 1.5e-3,
        _ => 2e-5,
    };
    let bound = of(G::DTYPE);
    assert_close(&format!("dx of {name}"), &got.dx, &want.dx, of(T::DTYPE));
    for (p, got) in PARAMS.into_iter().zip(&got.gradients) {
        let want: Vec<f64> = want.gradients[p].iter().map(|g| g + before.unwrap_or(0.0)).collect();
        assert_close(&format!("{} of {name}", p.name()), got, &want, bound);
    }
}

#[test]
fn the_way_back_agrees_with_the_reference_on_every_axis() {
    for (turn, (name, layer)) in some_of(5, every_axis().into_iter().enumerate()) {
        let gpu = Gpu::new(turn as u64 % 6);
        match turn % 4 {
            0 => check_back::<f32, f32>(name, &layer, &gpu, None, None),
            1 => check_back::<bf16, f32>(name, &layer, &gpu, None, Some(0.5)),
            2 => check_back::<bf16, bf16>(name, &layer, &gpu, None, None),
            _ => check_back::<f16, f16>(name, &layer, &gpu, None, Some(0.25)),
        }
    }
}

#[test]
fn the_way_back_takes_any_size_and_any_number_of_splits() {
    let shapes = [
        (1, None, 1, 1, None),
        (1, Some(1), 2, 3, Some(5)),
        (63, Some(64), 5, 70, Some(3)),
        (64, None, 65, 130, None),
        (130, Some(70), 40, 600, Some(7)),
        (20, Some(8), 400, 33, Some(2)),
        (12, Some(9), 3, 1200, None),
        (20, Some(1100), 5, 70, Some(2)),
        (8, Some(1160), 3, 20, None),
        (600, Some(130), 3, 50, None),
    ];
    for (turn, (width, hidden, experts, rows, splits)) in some_of(6, shapes.into_iter().enumerate()) {
        let mut layer = gated(width, hidden, experts, 1, rows, turn as u64);
        // A gradient of zero, from activations or weights that are all off, has no scale to be measured by.
        layer.dlogits = Some(support::uniform(turn as u64, rows * experts));
        let name = format!("{:?}", shapes[turn]);
        check_back::<f32, f32>(&name, &layer, &Gpu::new(turn as u64 % 6), splits, Some(1.0));
        check_back::<f16, f32>(&name, &layer, &Gpu::new((turn as u64 + 3) % 6), splits, None);
    }
}

#[test]
fn no_split_is_longer_than_tensor_cores_may_sum() {
    for rows in [0, 1, 2048, 2049, 12_608, 1 << 20] {
        let splits = |dtype| gate::Cut::new(1, dtype, rows, 4096, 1024, 10).unwrap().splits;
        assert_eq!([splits(DType::Bf16), splits(DType::F16)], [rows.div_ceil(2048).max(1); 2]);
        assert_eq!(splits(DType::F32), 1);
    }
}

#[test]
fn the_way_back_gives_the_same_bits_for_all_seeds() {
    let layer = gated(40, Some(70), 12, 3, 700, 2);
    let first = backward::<bf16, f32>(&Gpu::new(0), &layer, Some(4), None);
    for gpu in Gpu::seeds() {
        let other = backward::<bf16, f32>(&gpu, &layer, Some(4), None);
        assert_eq!(first.dx, other.dx);
        assert_eq!(first.gradients, other.gradients);
    }
}
