//! Where a data set's files are.

use super::Split;
use super::notes;
use super::table::{Table, without_npz};
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder that has the shape of a data set.
#[derive(Debug)]
pub(super) struct Layout {
    /// `data_summary.csv`.
    pub(super) summary: Table,
    /// The notes.
    pub(super) notes: Table,
    /// The folder of each split.
    pub(super) folders: [PathBuf; 3],
}

impl Layout {
    /// Finds the tables and the splits' folders under `root`.
    pub(super) fn find(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(Error::file(root, "there is no such folder"));
        }
        let summary = root.join("data_summary.csv");
        if !summary.is_file() {
            return Err(Error::file(root, "this folder holds no data_summary.csv"));
        }
        let (summary, notes) = (Table::read(&summary)?, notes::table(root)?);
        let [training, validation, test] = Split::ALL.map(|split| folder(root, split));
        Ok(Self { summary, notes, folders: [training?, validation?, test?] })
    }

    /// The names of a split's npz files, sorted.
    pub(super) fn files(&self, split: Split) -> Result<Vec<String>> {
        let mut files = names(&self.folders[split as usize])?;
        files.retain(|name| without_npz(name).is_some());
        Ok(files)
    }
}

/// The one folder of a split, whatever its case.
fn folder(root: &Path, split: Split) -> Result<PathBuf> {
    let is_it =
        |name: &str| name.eq_ignore_ascii_case(split.name()) || (split == Split::Test && name.eq_ignore_ascii_case("testing"));
    let mut found = names(root)?;
    found.retain(|name| is_it(name) && root.join(name).is_dir());
    match &found[..] {
        [name] => Ok(root.join(name)),
        [] => Err(Error::file(root, format!("this folder holds no folder {split}"))),
        [one, other, ..] => Err(Error::file(root, format!("this folder holds both {one} and {other}, and one was expected"))),
    }
}

/// What a folder holds, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::file(folder, e);
    let entries = fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let mut names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}
