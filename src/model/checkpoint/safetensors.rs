//! The header of a safetensors file.

use super::stored::Stored;
use super::{Contents, Fault};
use crate::model::file::KEY;
use ::safetensors::tensor::{Metadata, TensorInfo};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Where each tensor lies, and the text that our own files have beside them.
pub(in crate::model) fn open(mut file: &File, length: u64) -> Result<Contents, Fault> {
    let damaged = |why: &dyn std::fmt::Display| format!("this is not a whole safetensors file: {why}");
    let mut size = [0; 8];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut size)).map_err(|e| damaged(&e))?;
    let size = u64::from_le_bytes(size);
    // Before it is allocated.
    let start = size.checked_add(8).filter(|&start| start <= length);
    let start = start.ok_or_else(|| damaged(&format_args!("its header has {size} bytes, but the file only {length}")))?;
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(|e| damaged(&e))?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(&e))?;
    let (promised, held) = (header.data_len() as u64, length - start);
    if promised != held {
        return Err(damaged(&format_args!("its header promises {promised} bytes of tensors, but {held} follow")));
    }
    let text = header.metadata().as_ref().and_then(|m| m.get(KEY).cloned()).unwrap_or_default();
    let stored = |(name, info): (String, &TensorInfo)| {
        (name, Stored::contiguous(info.dtype, start + info.data_offsets.0 as u64, info.shape.clone()))
    };
    Ok(Contents { tensors: header.tensors().into_iter().map(stored).collect(), text })
}
