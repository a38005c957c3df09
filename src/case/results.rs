//! What a replay computed, and writing it.

use super::Case;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Results by name: shape and values.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Results {
    /// Adds a tensor.
    pub(crate) fn put<T: Element>(&mut self, name: impl Into<String>, shape: &[usize], values: &[T]) {
        self.0.insert(name.into(), (shape.to_vec(), values.iter().map(|v| v.to_f64()).collect()));
    }

    /// Adds a single number, a tensor of shape [1].
    pub(crate) fn put_number(&mut self, name: impl Into<String>, value: f64) {
        self.put(name, &[1], &[value]);
    }

    /// Keeps the results that the case asks for, that is, what is left of it; a case that holds inputs alone asks for all.
    pub(crate) fn keep_wanted(mut self, case: &Case) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        for (name, shape) in case.remaining() {
            let why = || format!("tensor {name} is neither an input of its kind nor a result that its inputs give");
            let (name, result) = self.0.remove_entry(name).ok_or_else(|| case.error(why()))?;
            if result.0 != shape {
                return Err(case.error(format!("tensor {name} must have shape {:?}, but has shape {shape:?}", result.0)));
            }
            wanted.insert(name, result);
        }
        Ok(if wanted.is_empty() { self } else { Self(wanted) })
    }

    /// A result's shape and values.
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f64])> {
        self.0.get(name).map(|(shape, values)| (shape.as_slice(), values.as_slice()))
    }

    /// The results' names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Writes all results as f64 into one `.safetensors` file, which appears whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let tensors = self.0.iter().map(|(name, (shape, values))| (name, Tensor { shape, values }));
        let bytes = safetensors::serialize(tensors, None).map_err(|why| Error::file(path, why))?;
        write_atomically(path, |file| file.write_all(&bytes))
    }
}

struct Tensor<'a> {
    shape: &'a [usize],
    values: &'a [f64],
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F64
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}
