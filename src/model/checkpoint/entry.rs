//! A parameter as a file holds it.

use super::Fault;
use super::stored::Stored;
use candle_core::Tensor;
use std::fs::File;

/// One tensor; or one for each expert, to be stacked.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// All of the file's keys for it.
    pub(super) keys: Vec<String>,
    pub(super) parts: Vec<Stored>,
    pub(super) stacked: bool,
}

impl Entry {
    pub(super) fn shape(&self) -> Vec<usize> {
        let part = self.parts.first().map_or(&[][..], |part| &part.shape);
        let experts = self.stacked.then_some(self.parts.len());
        experts.into_iter().chain(part.iter().copied()).collect()
    }

    /// All of it, in the file's type of numbers.
    pub(super) fn tensor(&self, file: &File) -> Result<Tensor, Fault> {
        let parts = self.parts.iter().map(|part| part.tensor(file)).collect::<Result<Vec<_>, _>>()?;
        match (&parts[..], self.stacked) {
            ([whole], false) => Ok(whole.clone()),
            (parts, _) => Tensor::stack(parts, 0).map_err(|e| e.to_string()),
        }
    }
}
