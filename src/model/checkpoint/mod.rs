//! Pretrained weights, whoever saved them.
//!
//! Reads safetensors files (Hugging Face's `CLIPModel`, OpenAI's names, our own) and PyTorch's zip archives (OpenAI's TorchScript
//! models; state dictionaries as FairCLIP and Fair-MoE save them). Nothing in a file is ever executed, and no tensor is read
//! before it is asked for.

mod architecture;
mod entry;
mod load;
mod names;
mod report;
mod safetensors;
mod stored;

pub use load::ExpertsFrom;
pub use report::{Instead, LoadReport, WrongShape};

use crate::error::{Error, Result};
use candle_core::Tensor;
use names::Arranged;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use stored::Stored;

/// What is wrong with a file, as the end of a sentence that begins with its path.
type Fault = String;

/// What a file holds, whatever its format.
struct Contents {
    tensors: BTreeMap<String, Stored>,
    /// What our own files have beside their tensors.
    text: String,
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
        let io = |e: std::io::Error| Error::file(path, e);
        // Before it is opened: to open a pipe is to wait for whoever writes to it.
        let data = std::fs::metadata(path).map_err(io)?;
        if !data.is_file() {
            return Err(fault("this is no file".into()));
        }
        let file = File::open(path).map_err(io)?;
        let Contents { tensors, text } = contents(&file, data.len()).map_err(fault)?;
        let arranged = names::arrange(tensors, &file).map_err(fault)?;
        Ok(Self { path: path.to_owned(), file, arranged, text })
    }

    /// The text that our own files have beside their tensors; empty in all others.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parameters that it holds, by our names, with their shapes; whether a model has such parameters or not.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.arranged.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape()))
    }

    /// Reads a parameter, in the file's own type of numbers.
    ///
    /// # Errors
    /// When there is none of that name, it is not of floating-point numbers, or the file cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.arranged.entries.get(name).ok_or_else(|| Error::file(&self.path, format!("it holds no {name}")))?;
        entry.tensor(&self.file).map_err(|why| Error::file(&self.path, why))
    }
}

/// Finds out which kind of file it is by its first bytes.
fn contents(file: &File, length: u64) -> std::result::Result<Contents, Fault> {
    let mut first = Vec::new();
    file.take(8).read_to_end(&mut first).map_err(|e| e.to_string())?;
    match &first[..] {
        b"version " => Err("this is a pointer of Git LFS, not the file that it stands for".into()),
        _ => safetensors::open(file, length),
    }
}
