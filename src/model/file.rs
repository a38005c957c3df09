//! Tensors in safetensors files, with one text beside them.

use super::checkpoint::{Fault, regular, safetensors};
use crate::error::{Error, Result};
use ::safetensors::View;
use candle_core::Tensor;
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

/// Under which name the text stands in a file's metadata.
pub(super) const KEY: &str = "fair_moe";

/// Reads every tensor of a file, and the text that [`write_tensors`] left beside them; empty where there is none.
///
/// # Errors
/// When the file cannot be read, or is not a safetensors file.
pub fn read_tensors(path: &Path) -> Result<(BTreeMap<String, Tensor>, String)> {
    let fault = |why: Fault| Error::file(path, why);
    let (file, length) = regular(path)?;
    let contents = safetensors::open(&file, length).map_err(fault)?;
    let read = contents.tensors.into_iter().map(|(name, stored)| Ok((name, stored.tensor(&file).map_err(fault)?)));
    Ok((read.collect::<Result<_>>()?, contents.text))
}

/// Writes tensors and a text to a file, whole or not at all. Equal tensors and texts give equal bytes.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, text: String) -> Result<()> {
    let mut tensors: Vec<_> = tensors.iter().collect();
    // The largest numbers first, so that all are aligned.
    tensors.sort_by_key(|(_, tensor)| Reverse(View::dtype(*tensor).bitsize()));
    // transformers reads no file that does not tell its format.
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({KEY: text, "format": "pt"}))]);
    let mut start = 0;
    for (name, tensor) in &tensors {
        let end = start + tensor.data_len();
        let place = json!({"dtype": View::dtype(*tensor), "shape": tensor.dims(), "data_offsets": [start, end]});
        header.insert((*name).clone(), place);
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    crate::files::write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        // One tensor at a time: copies of all would need as much memory again.
        tensors.iter().try_for_each(|(_, tensor)| file.write_all(&tensor.data()))
    })
}
