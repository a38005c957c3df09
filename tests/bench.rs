//! What `fair-moe bench` measures: how many pairs each shape has, what a run of each part costs, and that each runs.
#![cfg(feature = "cli")]

use fair_moe::bench::{Cost, LayerWork, LossWork, Pass, Saved, Shape, Stage, Work, measure};
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
    // Ten parts, and each of the six products.
    assert_eq!(launches, [1, 1, 2, 1, 4, 1, 2, 1, 5, 8, 1, 1, 1, 1, 1, 1]);
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

/// N rows of K pairs each; 6·P·D·F in gated experts, backward twice that.
#[test]
fn language_models_layers_are_those_of_their_publications() {
    let published = [
        ("swiglu-1.4b", [40960, 768, 1024, 32, 2]),
        ("swiglu-7b", [24576, 1536, 1024, 32, 2]),
        ("olmoe", [32768, 2048, 1024, 64, 8]),
        ("qwen3-30b", [32768, 2048, 768, 128, 8]),
        ("swiglu-30b", [32768, 4096, 256, 256, 16]),
        ("swiglu-120b", [32768, 4096, 1024, 128, 8]),
    ];
    for (name, sizes) in published {
        let shape = name.parse::<Shape>().unwrap();
        let (config, experts) = (&shape.config, shape.config.experts);
        let rows = shape.tokens * shape.samples_or(1);
        assert_eq!([rows, config.width, experts.width, experts.count, config.top_k], sizes, "{name}");
        assert!(shape.given && experts.gated && !experts.bias && config.capacity_of(shape.tokens, 128).unwrap().is_none());
    }
}

/// The layer of a language model with fewer and narrower rows.
fn small_language_shape() -> Shape {
    let mut shape = "swiglu-1.4b".parse::<Shape>().unwrap();
    (shape.tokens, shape.samples, shape.config.width, shape.config.experts.width) = (4, Some(16), 64, 48);
    shape
}

#[test]
fn given_probabilities_leave_no_gate_to_measure() {
    let mut work = LayerWork::<f32>::new(&small_language_shape(), 16).unwrap();
    let (n, k, d, f, e) = (64.0, 2.0, 64.0, 48.0, 32.0);
    assert_eq!(work.pairs() as f64, n * k);
    let cost = |pass| work.cost((Stage::Routed, pass));
    assert_eq!([cost(Pass::Forward).flops, cost(Pass::Backward).flops], [6.0, 12.0].map(|times| times * n * k * d * f));
    // x in, y out, three matrices of each expert, and both inner layers of each pair.
    assert_eq!(cost(Pass::Forward).bytes, 4.0 * (2.0 * n * d + 3.0 * e * f * d + 2.0 * n * k * f));
    // x and dy in, dx out; the matrices and their gradients.
    assert_eq!(cost(Pass::Backward).bytes, 4.0 * (3.0 * n * d + 6.0 * e * f * d + 2.0 * n * k * f));
    let found = measure(&mut work, Duration::ZERO).unwrap();
    assert!(found.len() == 8 && found.iter().all(|m| m.part.0 != Stage::Gate && m.times.is_some()));
}

#[cfg(feature = "emulate")]
#[test]
fn an_emulated_device_counts_a_layer_from_given_probabilities() {
    let device = "emulated:3@sm_90a".parse().unwrap();
    let layer = fair_moe::bench::DeviceLayer::<half::bf16>::new(&small_language_shape(), 16, &device).unwrap();
    assert_eq!(layer.pairs(), 64 * 2);
    let found = layer.measure(Duration::ZERO).unwrap();
    let whole: Vec<_> = found.iter().filter(|m| m.part.0 == Stage::Routed).map(|m| m.launches.unwrap()).collect();
    assert_eq!(whole, [1 + 2 + 1, 4 + 1 + 1]);
}

/// Where dfc2, dfc1 and dx are one launch it is counted beside them, and has to do what they have.
#[cfg(feature = "emulate")]
#[test]
fn an_emulated_device_counts_products_in_one_launch() {
    let mut shape = "vit-b16-text".parse::<Shape>().unwrap();
    (shape.tokens, shape.config.width, shape.config.experts.width) = (24, 128, 256);
    let device = "emulated:3@sm_90a".parse().unwrap();
    let layer = fair_moe::bench::DeviceLayer::<half::bf16>::new(&shape, 64, &device).unwrap();
    let found = layer.measure(Duration::ZERO).unwrap();
    let of = |stage: Stage| found.iter().find(|m| m.part == (stage, Pass::Backward)).unwrap();
    let merged = of(Stage::Merged);
    let three = [Stage::Dfc2, Stage::Dfc1, Stage::Dx].map(|stage| of(stage).cost);
    assert_eq!(merged.cost, three[0] + three[1] + three[2]);
    assert_eq!((merged.launches, of(Stage::Experts).launches, of(Stage::Layer).launches), (Some(1), Some(2), Some(6)));
    // Weights are folded: up writes one hidden layer of each pair, dinner reads it and writes its gradient.
    let (r, p, d, f) = (24.0 * 64.0, 24.0 * 64.0 * 3.0, 128.0, 256.0);
    let up = found.iter().find(|m| m.part.0 == Stage::Up).unwrap().cost;
    assert_eq!(up.bytes, 2.0 * (r * d + 10.0 * f * d + p * f));
    assert_eq!(of(Stage::Dinner).cost.bytes, 2.0 * (r * d + 10.0 * f * d + 2.0 * p * f));
    // dy, for the biases.
    assert_eq!(of(Stage::Route).cost.bytes, 4.0 * (2.0 * r * 10.0 + 2.0 * p) + 2.0 * r * d);
}

/// The experts' parts are the six products', whether counted together or one by one.
#[cfg(feature = "emulate")]
#[test]
fn products_add_up_to_the_experts() {
    let layer =
        fair_moe::bench::DeviceLayer::<half::f16>::new(&small_language_shape(), 16, &"emulated".parse().unwrap()).unwrap();
    let found = layer.measure(Duration::ZERO).unwrap();
    let flops = |pass: Pass, stages: &[Stage]| -> f64 {
        found.iter().filter(|m| m.part.1 == pass && stages.contains(&m.part.0)).map(|m| m.cost.flops).sum()
    };
    use Stage::{Dfc1, Dfc2, Dinner, Down, Dx, Experts, Up};
    assert_eq!(flops(Pass::Forward, &[Experts]), flops(Pass::Forward, &[Up, Down]));
    assert_eq!(flops(Pass::Backward, &[Experts]), flops(Pass::Backward, &[Dinner, Dfc2, Dx, Dfc1]));
    // Up of two maps: x, both matrices of 32 experts, both inner layers and their product.
    let (n, p, d, f) = (64.0, 128.0, 64.0, 48.0);
    let up = found.iter().find(|m| m.part.0 == Up).unwrap().cost;
    assert_eq!((up.flops, up.bytes), (4.0 * p * d * f, 2.0 * (n * d + 2.0 * 32.0 * f * d + 3.0 * p * f)));
}

/// Nothing is predicted to be faster than the card, and a whole is the sum of its parts.
#[test]
fn predictions_of_parts_add_up_to_that_of_the_layer() {
    let card = fair_moe::bench::card("h200").unwrap();
    for (name, whole) in [("vit-b16-image", Stage::Layer), ("vit-l14-text-pruned", Stage::Layer), ("olmoe", Stage::Routed)] {
        let shape = name.parse::<Shape>().unwrap();
        let samples = shape.samples_or(64);
        let (pairs, found) = fair_moe::bench::predicted(&card, &shape, samples, fair_moe::DType::Bf16).unwrap();
        let want = [("vit-b16-image", 64 * 470), ("vit-l14-text-pruned", 64 * 3), ("olmoe", 32768 * 8)];
        assert!(want.contains(&(name, pairs)), "{name} {pairs}");
        for pass in [Pass::Forward, Pass::Backward] {
            let seconds = |stage| found.iter().filter(|p| p.part == (stage, pass)).map(|p| p.seconds).sum::<f64>();
            let parts = [Stage::Gate, Stage::Route, Stage::Experts, Stage::Combine].map(seconds);
            assert!((parts.iter().sum::<f64>() / seconds(whole) - 1.0).abs() < 1e-9, "{name} {parts:?}");
            assert_eq!(seconds(Stage::Gate) > 0.0, whole == Stage::Layer);
        }
        let seconds = |stage| found.iter().find(|p| p.part == (stage, Pass::Backward)).map(|p| p.seconds);
        let three = [Stage::Dfc2, Stage::Dfc1, Stage::Dx].map(|stage| seconds(stage).unwrap()).into_iter().sum::<f64>();
        let behind = seconds(Stage::Merged).unwrap_or(three);
        assert_eq!(seconds(Stage::Merged).is_some(), !name.ends_with("-pruned"), "{name}");
        let experts = seconds(Stage::Experts).unwrap();
        assert!(behind <= three && (experts / (seconds(Stage::Dinner).unwrap() + behind) - 1.0).abs() < 1e-9, "{name}");
        let ceilings = fair_moe::bench::Ceilings::of_card(&card, fair_moe::DType::Bf16);
        assert!(found.iter().all(|p| p.cost.flops / p.seconds < ceilings.flops_per_second), "{found:?}");
    }
    assert!(fair_moe::bench::card("a card of nobody's").unwrap_err().to_string().contains("H200, H100, A100"));
}

/// x, and one number for each pair and unit of an expert: section by section of the published layer.
#[test]
fn what_is_kept_for_backward_is_little_more_than_x_and_one_inner_layer() {
    let saved = Saved::of(&"vit-b16-image".parse().unwrap(), 64, fair_moe::DType::Bf16).unwrap();
    let (rows, pairs) = (197 * 64, 64 * 10 * 47);
    assert_eq!((saved.x, saved.experts), (rows * 768 * 2, pairs * 3072 * 2));
    // The gate's hidden layer of 192, and some 50 numbers a row of logits, weights and lists.
    assert!((rows * 192 * 4..rows * 250 * 4).contains(&saved.routing), "{saved:?}");
    let gated = Saved::of(&"swiglu-1.4b".parse().unwrap(), 128, fair_moe::DType::Bf16).unwrap();
    assert_eq!((gated.x, gated.experts), (40960 * 768 * 2, 2 * 81920 * 1024 * 2));
}

/// A bench that is killed, as by a time limit, leaves what it measured until then.
#[cfg(all(feature = "model", feature = "emulate"))]
#[test]
fn figures_are_there_as_soon_as_they_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    bench.args(["bench", "--device", "emulated:1", "--dtype", "bf16", "--samples", "1", "--json"]).arg(&json);
    // The second would take minutes.
    bench.args(["--shape", "vit-b16-text-pruned", "olmoe"]).stdout(std::process::Stdio::null());
    let mut bench = bench.stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !json.exists() && bench.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.kill().unwrap();
    let named = String::from_utf8(bench.wait_with_output().unwrap().stderr).unwrap();
    assert!(named.starts_with("bench bf16: vit-b16-text-pruned\n"), "{named}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    assert!(results.len() > 10 && results.iter().all(|row| row["shape"] == "vit-b16-text-pruned"), "{report}");
}

/// No device has f64: whatever is asked for is said to have failed, and why.
#[cfg(all(feature = "model", feature = "emulate"))]
#[test]
fn a_shape_that_fails_does_not_keep_the_next_from_being_tried() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    bench.args(["bench", "--device", "emulated:1", "--dtype", "f64", "--samples", "1", "--json"]).arg(&json);
    let output = bench.args(["--shape", "vit-b16-text-pruned", "vit-b16-text"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let failed: Vec<_> = report["failed"].as_array().unwrap().iter().map(|failure| failure["what"].as_str().unwrap()).collect();
    assert_eq!(failed, ["vit-b16-text-pruned", "vit-b16-text"]);
    assert!(report["failed"][0]["why"].as_str().unwrap().contains("f64"), "{report}");
}

/// An emulated device has no clock.
#[cfg(feature = "emulate")]
#[test]
fn an_empty_kernel_can_be_launched_and_is_not_timed_without_a_clock() {
    let found = fair_moe::bench::empty_graph(&"emulated:1".parse().unwrap(), Duration::ZERO).unwrap();
    assert!(found.is_none());
}

/// On a machine without any device: a hollow point for each part that computes something, and as many figures as lines.
#[cfg(feature = "model")]
#[test]
fn predictions_are_drawn_and_written_without_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let [plot, json] = ["roofline.svg", "bench.json"].map(|name| folder.path().join(name));
    let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    bench.args(["bench", "--dtype", "bf16", "--samples", "64", "--predict", "--shape", "vit-b16-image", "swiglu-1.4b"]);
    let output = bench.arg("--plot").arg(&plot).arg("--json").arg(&json).output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && text.starts_with("H200: predictions, of which nothing was measured"), "{text}{said}");

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    let of = |shape: &str| results.iter().filter(|row| row["shape"] == shape).count();
    // Both directions of gate, route, experts, combine and the whole, six products, and three of them in one launch; no gate where
    // probabilities are given.
    assert_eq!((of("vit-b16-image"), of("swiglu-1.4b")), (17, 15));
    assert!(results.iter().all(|row| row["median_ms"].is_null() && row["predicted_ms"].as_f64().unwrap() > 0.0));
    assert_eq!(report["saved"][0]["experts_bytes"], 64 * 10 * 47 * 3072 * 2);
    assert_eq!(text.lines().filter(|line| line.contains("kept for backward")).count(), 2);

    let drawing = std::fs::read_to_string(plot).unwrap();
    let drawing = roxmltree::Document::parse(&drawing).unwrap();
    let within =
        |class: &str| drawing.descendants().filter(|n| n.attribute("class").is_some_and(|c| c.starts_with(class))).count();
    let computing = results.iter().filter(|row| row["flops"].as_f64().unwrap() > 0.0).count();
    // The legend has one of each direction too.
    assert_eq!((within("point"), within("hollow"), within("dot")), (computing, computing + 2, 0));
}
