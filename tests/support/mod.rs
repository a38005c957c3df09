//! What the tests share: recorded cases, and the measure of an error.
#![allow(dead_code, reason = "each test binary uses its own part")]

#[cfg(feature = "emulate")]
pub mod experts;
#[cfg(feature = "emulate")]
pub mod gpu;
pub mod layer;
pub mod loss;
#[cfg(feature = "emulate")]
pub mod products;
#[cfg(feature = "emulate")]
pub mod rows;

use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::io::Write;

/// A recorded case from tests/data: settings, and tensors as f64.
pub struct Case {
    pub settings: HashMap<String, serde_json::Value>,
    pub tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Case {
    /// Reads tests/data/NAME.safetensors.
    pub fn load(name: &str) -> Case {
        let path = format!("{}/tests/data/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let settings = header.metadata().clone().unwrap_or_default();
        let settings = settings.into_iter().map(|(k, v)| (k, serde_json::from_str(&v).unwrap())).collect();
        let read = |t: safetensors::tensor::TensorView| {
            let eight = t.data().chunks_exact(8).map(|b| <[u8; 8]>::try_from(b).unwrap());
            let values = match t.dtype() {
                Dtype::F64 => eight.map(f64::from_le_bytes).collect(),
                Dtype::I32 => t.data().as_chunks().0.iter().map(|&b| i32::from_le_bytes(b) as f64).collect(),
                Dtype::I64 => eight.map(|b| i64::from_le_bytes(b) as f64).collect(),
                Dtype::U8 => t.data().iter().map(|&b| b as f64).collect(),
                other => panic!("{other:?} in {path}"),
            };
            (t.shape().to_vec(), values)
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Case { settings, tensors: tensors.into_iter().map(|(name, t)| (name, read(t))).collect() }
    }

    /// A tensor's values.
    pub fn get(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).0
    }

    /// A setting that is a number.
    pub fn number(&self, key: &str) -> f64 {
        self.settings[key].as_f64().unwrap_or_else(|| panic!("{key} is no number"))
    }

    /// A setting that is a whole number.
    pub fn size(&self, key: &str) -> usize {
        self.number(key) as usize
    }

    /// A setting that is a text.
    pub fn text(&self, key: &str) -> &str {
        self.settings[key].as_str().unwrap_or_else(|| panic!("{key} is no text"))
    }

    /// A setting that is true or false; false where it is absent.
    pub fn flag(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|v| v.as_bool().unwrap())
    }
}

/// ‖got - want‖ / ‖want‖; the error itself where `want` is zero. NaN anywhere gives NaN, which no bound allows.
pub fn relative_l2(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths differ");
    let norm = want.iter().map(|w| w * w).sum::<f64>().sqrt();
    let error = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum::<f64>().sqrt();
    if norm == 0.0 { error } else { error / norm }
}

/// Fails unless the relative L2 error is at most `bound`.
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    let error = relative_l2(got, want);
    assert!(error <= bound, "{what}: relative L2 error {error:.3e} is above {bound:.1e}");
}

/// The gradient of `f` at `x` by central differences.
pub fn finite_differences(x: &[f64], step: f64, mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut at = x.to_vec();
    let mut one = |i: usize| {
        at[i] = x[i] + step;
        let above = f(&at);
        at[i] = x[i] - step;
        let below = f(&at);
        at[i] = x[i];
        (above - below) / (2.0 * step)
    };
    (0..x.len()).map(&mut one).collect()
}

/// `n` numbers, uniform in ±1; the same seed gives the same ones.
pub fn uniform(seed: u64, n: usize) -> Vec<f64> {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
    (0..n).map(|_| rng.random::<f64>() * 2.0 - 1.0).collect()
}

/// What `f` gives on this many threads.
pub fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// Says on standard error that a test is skipped for want of `what`; fails where the list FAIR_MOE_REQUIRE names it.
pub fn skip(what: &str, why: &str) {
    let required = std::env::var("FAIR_MOE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|one| one.trim() == what), "FAIR_MOE_REQUIRE names {what}, but {why}");
    // Past the test harness, which would keep what a passing test prints to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
