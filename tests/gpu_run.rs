//! The recorded cases replayed on emulated devices, in many orders of threads and of landing copies.
#![cfg(all(feature = "emulate", feature = "cli"))]

mod support;

use fair_moe::case::{self, Results};
use fair_moe::gpu::driver::Arch;
use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::{DType, Device};
use std::path::Path;
use std::sync::Arc;
use support::gpu::{seeds, some_of};
use support::{Case, relative_l2};

/// Four seeds in each of the three modes, or fewer where fewer are asked for, on two to four multiprocessors.
fn devices() -> impl Iterator<Item = (usize, Device)> {
    (0..3 * seeds().min(4) as u32).map(|i| {
        let settings = Settings { mode: i % 3, multiprocessors: 2 + i % 3, ..Settings::new(u64::from(i / 3), Arch(80)) };
        let driver = Arc::new(Emulated::new(settings));
        (i as usize, Device::of(format!("seed {}, mode {}", i / 3, i % 3), driver))
    })
}

fn replay(name: &str, dtype: DType, device: &Device) -> Results {
    let path = format!("{}/tests/data/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    case::replay(case::Case::read(Path::new(&path)).unwrap(), dtype, device).unwrap()
}

/// Every result within `bound(name)` of what was recorded; a gradient that is nearly zero against a thousandth of the largest.
fn check(case: &Case, what: &str, results: &Results, bound: impl Fn(&str) -> f64) {
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let floor = results.names().filter(|n| n.starts_with("d.")).map(|n| norm(case.get(n))).fold(0.0, f64::max) / 1000.0;
    for name in results.names() {
        let (got, want) = (results.get(name).unwrap().1, case.get(name));
        let size = norm(want);
        let error = relative_l2(got, want) * if size == 0.0 { 1.0 } else { size };
        let error = error / if name.starts_with("d.") { size.max(floor) } else { size };
        assert!(error <= bound(name), "{what}: {name} has error {error:.2e}, above {:.1e}", bound(name));
    }
}

fn bound_of(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-10,
        DType::F32 => 2e-5,
        DType::F16 => 1.5e-3,
        DType::Bf16 => 7e-3,
    }
}

fn layer(name: &str, dtypes: impl Fn(usize) -> Vec<DType>) {
    let case = Case::load(name);
    for (i, device) in devices() {
        for dtype in dtypes(i) {
            let what = format!("{name} in {dtype} on {device}");
            let results = replay(name, dtype, &device);
            check(&case, &what, &results, |_| bound_of(dtype));
            // Which experts a row is sent to: the cases leave no doubt about it.
            if let (Some((_, got)), Some((_, want))) = (results.get("weights"), case.tensors.get("weights")) {
                assert!(got.iter().map(|&w| w != 0.0).eq(want.iter().map(|&w| w != 0.0)), "{what}: routing");
            }
        }
    }
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

#[test]
fn small_layers() {
    let small = ["edge_one_expert", "edge_k_equals_e", "edge_capacity_one", "edge_one_token", "edge_odd_sizes", "edge_no_bias"];
    let names = small.into_iter().chain(["token_small", "token_renormalised", "token_silu_nocap", "feature_small"]);
    for name in some_of(4, names) {
        layer(name, |_| DTYPES.to_vec());
    }
}

/// One dtype on each device: each dtype in all modes.
#[test]
fn large_layers() {
    for name in ["token_vit", "feature_wide"] {
        layer(name, |i| vec![DTYPES[i / 3 % 3]]);
    }
}

#[test]
fn losses() {
    for name in ["fol_race", "fol_strong"] {
        let case = Case::load(name);
        for (_, device) in devices() {
            let bound = |result: &str| if result == "d.logits" { 1e-4 } else { 2e-5 };
            check(&case, &format!("{name} on {device}"), &replay(name, DType::F32, &device), bound);
        }
    }
}

#[test]
fn moments() {
    for name in ["group_moments", "edge_uneven_groups"] {
        let case = Case::load(name);
        for (_, device) in devices() {
            check(&case, &format!("{name} on {device}"), &replay(name, DType::F32, &device), |_| 2e-5);
        }
    }
}

#[test]
fn what_a_device_does_not_replay_is_refused() {
    let (_, device) = devices().next().unwrap();
    for name in ["token_small", "fol_race", "group_moments"] {
        let path = format!("{}/tests/data/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let refused = case::replay(case::Case::read(Path::new(&path)).unwrap(), DType::F64, &device).unwrap_err().to_string();
        assert!(refused.contains("f64"), "{refused}");
    }
}
