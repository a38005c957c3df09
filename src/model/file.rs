//! Tensors in safetensors files, with one text beside them.

use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The one metadata key: a file with several would not have the same bytes on every run.
pub(super) const KEY: &str = "fair_moe";

/// Reads every tensor of a file, and the text that [`write_tensors`] left beside them; empty where there is none.
///
/// # Errors
/// When the file cannot be read, or is not a safetensors file.
pub fn read_tensors(path: &Path) -> Result<(BTreeMap<String, Tensor>, String)> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let damaged = |e: &dyn std::fmt::Display| Error::file(path, format!("this is not a whole safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let text = header.metadata().as_ref().and_then(|m| m.get(KEY).cloned()).unwrap_or_default();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| damaged(&e))?;
    Ok((tensors.into_iter().collect(), text))
}

/// Writes tensors and a text to a file, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, text: String) -> Result<()> {
    let metadata = HashMap::from([(KEY.to_owned(), text)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::file(path, e))?;
    crate::files::write_atomically(path, |file| std::io::Write::write_all(file, &bytes))
}
