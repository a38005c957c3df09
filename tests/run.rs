//! `fair-moe run` on the recorded cases: every result, in every dtype.
#![cfg(all(feature = "cli", feature = "model"))]

#[path = "support/recording.rs"]
mod recording;
mod support;

use fair_moe::check::every_axis;
use fair_moe::{CapacityScope, DType, Device, Layout, Param, case};
use recording::Recording;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::process::Command;
use support::{Case, relative_l2};

/// A case's results as the binary writes them, by name.
fn run(name: &str, dtype: &str) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let case = format!("{}/tests/data/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    let output = command.args(["run", &case, "--device", "cpu", "--dtype", dtype, "--out"]).arg(&out).output().unwrap();
    assert!(output.status.success(), "{name} in {dtype}: {}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&out).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
    let tensors = tensors.map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), Dtype::F64, "{name}");
        let values = tensor.data().as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
        (name, (tensor.shape().to_vec(), values))
    });
    tensors.collect()
}

/// Replays a case; its results must be all that the case holds except `inputs`, each within `bound(name)`.
fn replayed(name: &str, dtype: &str, is_input: impl Fn(&str) -> bool, bound: impl Fn(&str) -> f64) {
    let case = Case::load(name);
    let results = run(name, dtype);
    let mut wanted: Vec<_> = case.tensors.keys().filter(|name| !is_input(name)).collect();
    wanted.sort();
    assert_eq!(results.keys().collect::<Vec<_>>(), wanted, "{name} in {dtype}");
    // A gradient that is zero is measured against a thousandth of the largest.
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let gradients = wanted.iter().filter(|n| n.starts_with("d."));
    let floor = gradients.map(|n| norm(case.get(n))).fold(0.0, f64::max) / 1000.0;
    for (result, (shape, got)) in results {
        let want = case.get(&result);
        assert_eq!(shape, case.shape(&result), "{name}: {result}");
        let scale = if result.starts_with("d.") { (norm(want) / floor).min(1.0) } else { 1.0 };
        let error = if scale > 0.0 { relative_l2(&got, want) * scale } else { relative_l2(&got, want) / floor };
        let bound = bound(&result);
        assert!(error <= bound, "{name} in {dtype}: {result} has error {error:.2e}, above {bound:.1e}");
    }
}

fn bound_of(dtype: &str) -> f64 {
    match dtype {
        "f64" => 1e-10,
        "f32" => 2e-5,
        "f16" => 1.5e-3,
        _ => 7e-3,
    }
}

/// Written by tests/data/make_cases.py.
const EDGES: [&str; 6] =
    ["edge_one_expert", "edge_k_equals_e", "edge_capacity_one", "edge_one_token", "edge_odd_sizes", "edge_no_bias"];

#[test]
fn layers() {
    let is_input = |name: &str| {
        ["x", "dy", "dweights", "dlogits"].contains(&name) || name.starts_with("gate.") || name.starts_with("experts.")
    };
    let recorded = ["token_small", "token_vit", "token_renormalised", "token_silu_nocap", "feature_small", "feature_wide"];
    for name in recorded.into_iter().chain(EDGES) {
        for dtype in ["f64", "f32", "f16", "bf16"] {
            replayed(name, dtype, is_input, |_| bound_of(dtype));
        }
    }
}

#[test]
fn losses() {
    let is_input = |name: &str| {
        ["logits", "weights0", "weights1"].iter().any(|i| name.split('.').next_back() == Some(i) && !name.starts_with("d."))
    };
    for name in ["fol_race", "fol_strong"] {
        for dtype in ["f64", "f32", "bf16"] {
            let through_sinkhorn = if dtype == "f64" { 1e-6 } else { 1e-4 };
            let plain = bound_of(if dtype == "f64" { "f64" } else { "f32" });
            replayed(name, dtype, is_input, |result| if result == "d.logits" { through_sinkhorn } else { plain });
        }
    }
}

#[test]
fn group_moments() {
    for name in ["group_moments", "edge_uneven_groups"] {
        for dtype in ["f64", "f32"] {
            replayed(name, dtype, |name| ["x", "group", "dmean", "dvariance"].contains(&name), |_| bound_of(dtype));
        }
    }
}

#[test]
fn metrics() {
    replayed("metrics", "f32", |name| ["probability", "label", "attributes"].contains(&name), |_| 1e-10);
}

/// The cases of whole models: two kinds of loss, and sizes at the edge.
const MODELS: [&str; 6] = ["clip_tiny", "clip_one_patch", "step_paper", "step_authors", "step_uneven_groups", "step_one_expert"];

fn is_input_of_model(name: &str) -> bool {
    let results = ["d.", "gate.", "loss", "image_embeds", "text_embeds", "logits"];
    name == "logit_scale" || !results.iter().any(|result| name.starts_with(result))
}

#[test]
fn whole_models() {
    for name in MODELS {
        replayed(name, "f64", is_input_of_model, |_| 1e-8);
        replayed(name, "f32", is_input_of_model, |_| 1e-4);
        replayed(name, "bf16", is_input_of_model, |_| 0.5);
    }
}

#[test]
fn preprocessing() {
    replayed("preprocess_shared", "f32", |name| name == "image", |_| 2e-5);
}

/// Which experts a row is sent to does not depend on the dtype: the cases leave no doubt about it.
#[test]
fn routing_is_the_same_in_every_dtype() {
    for name in ["token_small", "token_vit", "token_renormalised", "token_silu_nocap"].into_iter().chain(EDGES) {
        let want: Vec<bool> = Case::load(name).get("weights").iter().map(|&w| w != 0.0).collect();
        for dtype in ["f64", "f32", "f16", "bf16"] {
            let got: Vec<bool> = run(name, dtype)["weights"].1.iter().map(|&w| w != 0.0).collect();
            assert!(got == want, "{name} in {dtype}");
        }
    }
}

/// Gates without a hidden layer, gated and shared experts and whatever else a case tells by the tensors that it holds: replayed as
/// the reference computes them. A case of inputs alone gets every result.
#[test]
fn layers_are_told_by_their_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (what, layer) in every_axis() {
        let (config, batch) = (&layer.config, CapacityScope::Batch);
        if layer.layout != Layout::TokensFirst
            || layer.row_mask.is_some()
            || layer.rows_needed.is_some()
            || config.capacity_scope == batch
        {
            continue;
        }
        let capacity = config.capacity_of(layer.tokens, layer.samples).unwrap();
        let mut recording = Recording::default()
            .set("kind", "\"token_moe\"")
            .set("tokens", &layer.tokens.to_string())
            .set("samples", &layer.samples.to_string())
            .set("width", &config.width.to_string())
            .set("expert_width", &config.experts.width.to_string())
            .set("experts", &config.experts.count.to_string())
            .set("top_k", &config.top_k.to_string())
            .set("capacity", &capacity.map_or("null".into(), |c| c.to_string()))
            .set("expert_activation", &format!("{:?}", config.experts.activation.name()))
            .set("renormalise", &config.renormalise.to_string())
            .set("subtract_input", &config.subtract_input.to_string())
            .set("gate_bias", &config.gate.bias.to_string())
            .set("expert_bias", &config.experts.bias.to_string());
        if let Some(hidden) = config.gate.hidden {
            recording = recording.set("gate_activation", &format!("{:?}", hidden.activation.name()));
        }
        let row = [layer.tokens, layer.samples, config.width];
        let scores = [layer.tokens, layer.samples, config.experts.count];
        recording = recording.put_floats("x", &row, &layer.x).put_floats("dy", &row, &layer.dy);
        for (name, gradient) in
            [("dweights", &layer.dweights), ("dprobabilities", &layer.dprobabilities), ("dlogits", &layer.dlogits)]
        {
            recording = recording.put_floats(name, &scores, gradient.as_ref().unwrap());
        }
        for p in Param::ALL.into_iter().filter(|p| p.len(config) > 0) {
            recording = recording.put_floats(p.name(), &p.shape(config), &layer.parameters[p]);
        }
        let path = folder.path().join("case");
        std::fs::write(&path, recording.bytes()).unwrap();
        let results = case::replay(case::Case::read(&path).unwrap(), DType::F64, &Device::cpu()).unwrap();
        let want = layer.reference().unwrap();
        let close = |name: &str, want: &[f64]| {
            let (_, got) = results.get(name).unwrap_or_else(|| panic!("{what}: no {name}"));
            assert!(relative_l2(got, want) <= 1e-10, "{what}: {name}");
        };
        close("y", &want.y);
        close("weights", &want.routing.weights);
        close("logits", &want.routing.logits);
        close("dx", &want.dx);
        for p in Param::ALL.into_iter().filter(|p| p.len(config) > 0) {
            close(&format!("d.{}", p.name()), &want.gradients[p]);
        }
        count += 1;
    }
    assert!(count >= 15, "{count}");
}
