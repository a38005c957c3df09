//! The gate's kernels on an emulated device.
#![cfg(feature = "emulate")]
// SAFETY: every buffer is as long as its kernel takes it for; the emulation checks that.
#![allow(unsafe_code)]

mod support;

use fair_moe::check::every_axis;
use fair_moe::*;
use half::{bf16, f16};
use support::gpu::Gpu;
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
    for (seed, (name, layer)) in every_axis().into_iter().enumerate() {
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
    ];
    for (seed, (width, hidden, experts, top_k, rows)) in shapes.into_iter().enumerate() {
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
    for seed in 1..6 {
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
    use fair_moe::gpu::{args::GateForward, gate};
    let gpu = Gpu::new(0);
    let refused = |args: &GateForward| {
        // SAFETY: nothing is launched.
        unsafe { gate::forward(&gpu.queue(), DType::F32, args) }.unwrap_err().to_string()
    };
    let good = GateForward { rows: 1, width: 1, experts: 2, top_k: 1, ..Default::default() };
    assert_eq!(refused(&GateForward { rows: 0, ..good }), "the number of rows must be at least 1, but is 0");
    assert_eq!(refused(&GateForward { top_k: 3, ..good }), "top-k must be from 1 to the number of experts, 2, but is 3");
    assert_eq!(refused(&good), "x must be given, but is none");
    // SAFETY: nothing is launched.
    let f64 = unsafe { gate::forward(&gpu.queue(), DType::F64, &good) };
    assert!(f64.is_err());
}
