//! Pretrained weights, whoever saved them.
//!
//! Reads safetensors files (Hugging Face's `CLIPModel`, OpenAI's names, our own) and PyTorch's zip archives (OpenAI's TorchScript
//! models; state dictionaries as FairCLIP and Fair-MoE save them). Nothing in a file is ever executed, and no tensor is read
//! before it is asked for.

mod architecture;
mod archive;
mod entry;
mod load;
mod names;
mod pickle;
mod report;
pub(super) mod safetensors;
mod stored;
mod torch;

pub use load::ExpertsFrom;
pub use report::{Instead, LoadReport, WrongShape};

use crate::error::{Error, Result};
use candle_core::Tensor;
use entry::Entry;
use names::Arranged;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use stored::Stored;

/// What is wrong with a file, as the end of a sentence that begins with its path.
pub(super) type Fault = String;

/// What a file holds, whatever its format.
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, Stored>,
    /// What our own files have beside their tensors.
    pub(super) text: String,
}

/// An open file of weights, its tensors under our names.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    arranged: Arranged,
    text: String,
}

impl Checkpoint {
    /// Opens a file, and finds out what it holds; the numbers stay in the file.
    ///
    /// # Errors
    /// When it is neither a safetensors file nor a zip archive of PyTorch, is damaged, holds what would have to be executed, or
    /// holds one parameter under two names with different numbers.
    pub fn open(path: &Path) -> Result<Self> {
        let fault = |why: Fault| Error::file(path, why);
        let (file, length) = regular(path)?;
        let Contents { tensors, text } = contents(&file, length).map_err(fault)?;
        let arranged = names::arrange(tensors, &file).map_err(fault)?;
        Ok(Self { path: path.to_owned(), file, arranged, text })
    }

    /// The text that our own files have beside their tensors; empty in all others.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tensors that it holds, by our names; whether a model has such parameters or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arranged.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.arranged.entries.get(name).map(Entry::shape)
    }

    /// Reads a tensor, in the file's own type of numbers.
    ///
    /// # Errors
    /// When there is none of that name, candle has no such type, or the file cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.arranged.entries.get(name).ok_or_else(|| Error::file(&self.path, format!("it holds no {name}")))?;
        entry.tensor(&self.file).map_err(|why| Error::file(&self.path, why))
    }
}

/// Opens a file, and tells its length.
pub(super) fn regular(path: &Path) -> Result<(File, u64)> {
    let fault = |why: std::io::Error| Error::file(path, why);
    // Before it is opened: to open a pipe is to wait for whoever writes to it.
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err(Error::file(path, "this is no file"));
    }
    let file = File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    Ok((file, length))
}

/// Finds out which kind of file it is by its first bytes.
fn contents(file: &File, length: u64) -> std::result::Result<Contents, Fault> {
    let mut first = Vec::new();
    file.take(9).read_to_end(&mut first).map_err(|e| e.to_string())?;
    match &first[..] {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => torch::open(file, length),
        [_, _, _, _, _, _, _, _, b'{'] => safetensors::open(file, length),
        [0x80, ..] => {
            Err("this is a pickle, as PyTorch before 1.6 saved: load it with a PyTorch of today and save it again".into())
        }
        b"version h" => Err("this is a pointer of Git LFS, not the file that it stands for".into()),
        _ => Err("this is neither a safetensors file nor a zip archive of PyTorch".into()),
    }
}
