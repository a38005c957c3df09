//! The files of one model's training.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Their folder.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub fn new(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).map_err(|e| Error::file(&path, e))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The model of the epoch with the highest selection figure so far, the later of equals.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// Everything that training goes on from.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// One line of JSON for each epoch.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }

    /// The settings.
    pub fn settings(&self) -> PathBuf {
        self.0.join("settings.json")
    }

    /// What was found in the file of weights that training starts from.
    pub fn weights(&self) -> PathBuf {
        self.0.join("weights.json")
    }

    /// What the terms weigh before the first step.
    pub fn start(&self) -> PathBuf {
        self.0.join("start.json")
    }

    /// Seconds and memory.
    pub fn cost(&self) -> PathBuf {
        self.0.join("cost.json")
    }
}
