//! Case files to be edited, or made up.
#![allow(dead_code, reason = "each test binary uses its own part")]

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use std::collections::{BTreeMap, HashMap};

/// A case file taken apart.
#[derive(Clone, Default)]
pub struct Recording {
    pub settings: HashMap<String, String>,
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Recording {
    /// Takes tests/data/NAME.safetensors apart.
    pub fn load(name: &str) -> Self {
        let path = format!("{}/tests/data/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let settings = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let part = |(name, t): (String, TensorView)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
        Self { settings, tensors: tensors.into_iter().map(part).collect() }
    }

    /// The same case with one setting changed, or added.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Without a setting.
    pub fn unset(mut self, key: &str) -> Self {
        self.settings.remove(key).unwrap();
        self
    }

    /// Without a tensor.
    pub fn drop(mut self, name: &str) -> Self {
        self.tensors.remove(name).unwrap();
        self
    }

    /// With a tensor's shape read another way.
    pub fn reshape(mut self, name: &str, shape: &[usize]) -> Self {
        self.tensors.get_mut(name).unwrap().1 = shape.to_vec();
        self
    }

    /// With a tensor of integers in place of what stood there, or added.
    pub fn put(mut self, name: &str, shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.into(), (Dtype::I64, shape.to_vec(), bytes));
        self
    }

    /// With a tensor of floats, as f64.
    pub fn put_floats(mut self, name: &str, shape: &[usize], values: &[f64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.into(), (Dtype::F64, shape.to_vec(), bytes));
        self
    }

    /// With one integer changed.
    pub fn poke(mut self, name: &str, index: usize, value: i64) -> Self {
        let (dtype, _, bytes) = self.tensors.get_mut(name).unwrap();
        assert_eq!(*dtype, Dtype::I64);
        bytes[8 * index..8 * index + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let views: Vec<_> =
            self.tensors.iter().map(|(n, t)| (n.clone(), TensorView::new(t.0, t.1.clone(), &t.2).unwrap())).collect();
        serialize(views, Some(self.settings.clone())).unwrap()
    }
}
