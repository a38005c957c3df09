//! `fair-moe run` on the recorded cases: every result, in every dtype.
#![cfg(all(feature = "cli", feature = "model"))]

mod support;

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
