//! What `fair-moe bench` measures: how many pairs each shape has, what a run of each part costs, and that each runs.
#![cfg(feature = "cli")]

use fair_moe::bench::{Cost, LayerWork, LossWork, Pass, Shape, Stage, Work, measure};
use std::time::Duration;

fn work(shape: &str, samples: usize) -> LayerWork<f32> {
    LayerWork::new(&shape.parse::<Shape>().unwrap(), samples).unwrap()
}

#[test]
fn even_routing_fills_every_expert() {
    assert_eq!(work("vit-b16-image", 1).pairs(), 47 * 10);
    // 77 tokens choose 3 experts each, and no expert reaches its capacity of 47.
    assert_eq!(work("vit-b16-text", 2).pairs(), 77 * 3 * 2);
    // One row of each sample, with at most three experts.
    assert!((1..=6).contains(&work("vit-b16-text-pruned", 2).pairs()));
}

#[test]
fn one_expert_takes_all_rows_of_a_skewed_gate() {
    assert_eq!(work("vit-b16-text-skewed", 2).pairs(), 77 * 2);
}

/// An emulated device tells how much there is to do, and no times.
#[cfg(feature = "emulate")]
#[test]
fn an_emulated_device_counts() {
    let shape = "vit-b16-text-pruned".parse::<Shape>().unwrap();
    let layer = fair_moe::bench::DeviceLayer::<half::bf16>::new(&shape, 1, &"emulated:2".parse().unwrap()).unwrap();
    assert_eq!(layer.pairs(), work("vit-b16-text-pruned", 1).pairs());
    let found = layer.measure(Duration::ZERO).unwrap();
    let launches: Vec<_> = found.iter().map(|m| m.launches.unwrap()).collect();
    assert_eq!(launches, [1, 1, 2, 1, 4, 1, 2, 1, 5, 8]);
    assert!(found.iter().all(|m| m.times.is_none() && m.cost != Cost::default()));
}

/// As many launches for the batch and three groups as for one batch; and no times.
#[cfg(feature = "emulate")]
#[test]
fn an_emulated_device_counts_the_loss() {
    let shape = "vit-b16-text".parse::<Shape>().unwrap();
    let device = "emulated:1".parse().unwrap();
    let found = fair_moe::bench::DeviceLoss::new(&shape, 5, &device).unwrap().measure(Duration::ZERO).unwrap();
    let launches: Vec<_> = found.iter().map(|m| (m.part.0.name(), m.part.1.name(), m.launches.unwrap())).collect();
    let (forward, backward) = ("forward", "backward");
    let want = [("moments", forward, 1), ("moments", backward, 1), ("contrast", forward, 1), ("contrast", backward, 1)];
    assert_eq!(launches[..4], want);
    assert_eq!(launches[4..], [("transport", forward, 1), ("fol", forward, 3), ("fol", backward, 2)]);
    assert!(found.iter().all(|m| m.times.is_none()));
    let (weights, logits) = (5.0 * 77.0 * 10.0, 25.0);
    let bytes: Vec<f64> = found.iter().map(|m| m.cost.bytes / 4.0).collect();
    let each = [4.0 * weights, 2.0 * weights, 4.0 * logits, 2.0 * logits, 3.0 * 5.0 * 8.0];
    assert_eq!(bytes[..5], each);
    assert_eq!(bytes[5..], [each[0] + each[2], each[1] + each[3]]);
}

#[cfg(feature = "emulate")]
#[test]
fn the_cpu_launches_no_loss() {
    let shape = "vit-b16-text".parse::<Shape>().unwrap();
    let refused = fair_moe::bench::DeviceLoss::new(&shape, 4, &fair_moe::Device::cpu()).err().unwrap().to_string();
    assert_eq!(refused, "the device must be a GPU or its emulation, but is cpu");
}

/// 4·P·D·F in the experts and 2·N·(D·H + H·E) in the gate; backward twice that.
#[test]
fn flops_follow_the_pairs() {
    let text = work("vit-b16-text", 2);
    let (n, p, d, f, h, e) = (154.0, 462.0, 512.0, 2048.0, 128.0, 10.0);
    let forward = 4.0 * p * d * f + 2.0 * n * (d * h + h * e);
    assert_eq!(text.cost((Stage::Layer, Pass::Forward)).flops, forward);
    assert_eq!(text.cost((Stage::Layer, Pass::Backward)).flops, 2.0 * forward);
}

#[test]
fn every_part_runs() {
    let shape = "vit-b16-text-fresh".parse::<Shape>().unwrap();
    let mut layer = LayerWork::<f32>::new(&shape, 1).unwrap();
    let mut loss = LossWork::<f32>::new(&shape, 4).unwrap();
    let works: [&mut dyn Work; 2] = [&mut layer, &mut loss];
    for work in works {
        let found = measure(work, Duration::ZERO).unwrap();
        assert_eq!(found.len(), work.parts().len());
        for m in found {
            let t = m.times.unwrap();
            assert!(t.min <= t.median && t.median <= t.max && m.cost != Cost::default(), "{m:?}");
        }
    }
}

#[test]
fn shapes_without_a_name_are_refused() {
    for name in ["", "vit-b16", "vit-b16-image-", "vit-b16-image-fresh-pruned"] {
        assert!(name.parse::<Shape>().is_err(), "{name:?}");
    }
}
