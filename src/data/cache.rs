//! Preprocessed images kept in a file, so that a data set is read once: a zip archive (whose checksums tell damage) of what it was
//! made from and of the pixels. Whatever is not as expected is made anew.

use super::npz::Fault;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Counts up with every change of what preprocessing gives or refuses, or of this file's format.
const VERSION: u32 = 3;

/// What the images were made from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Source {
    version: u32,
    size: usize,
    files: Vec<Stamp>,
}

/// A file as it was.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    file: String,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

/// Images [size, size], or why there is none, in the order of the files.
pub(super) type Images = Vec<std::result::Result<Vec<u8>, Fault>>;

impl Source {
    /// These files of a folder as they are now, for images of this size.
    pub(super) fn now<'a>(folder: &Path, files: impl Iterator<Item = &'a str>, size: usize) -> Result<Self> {
        let stamp = |file: &str| {
            let path = folder.join(file);
            let metadata = fs::metadata(&path).map_err(|e| Error::file(path, e))?;
            let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            let modified = modified.map_or(0, |t| t.as_nanos() as u64);
            Ok(Stamp { file: file.to_owned(), bytes: metadata.len(), modified })
        };
        Ok(Self { version: VERSION, size, files: files.map(stamp).collect::<Result<_>>()? })
    }

    /// The images that were kept at `path`; none if they were made from anything else, or are damaged.
    pub(super) fn load(&self, path: &Path) -> Option<Images> {
        let mut archive = ZipArchive::new(BufReader::new(File::open(path).ok()?)).ok()?;
        let (source, faults): (Source, Vec<Option<Fault>>) = serde_json::from_reader(archive.by_name("source").ok()?).ok()?;
        if source != *self || faults.len() != self.files.len() {
            return None;
        }
        let mut pixels = archive.by_name("pixels").ok()?;
        let image = |fault: Option<Fault>| match fault {
            Some(why) => Some(Err(why)),
            None => {
                let mut image = vec![0; self.size * self.size];
                pixels.read_exact(&mut image).ok()?;
                Some(Ok(image))
            }
        };
        let images = faults.into_iter().map(image).collect::<Option<Images>>()?;
        // The checksum is compared at the end, and nothing may follow it.
        (pixels.read(&mut [0]).ok()? == 0).then_some(images)
    }

    /// Keeps images at `path`.
    pub(super) fn save(&self, path: &Path, images: &Images) -> Result<()> {
        let faults: Vec<Option<&Fault>> = images.iter().map(|image| image.as_ref().err()).collect();
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let archive = || -> io::Result<Vec<u8>> {
            let mut archive = ZipWriter::new(Cursor::new(vec![]));
            archive.start_file("source", options)?;
            serde_json::to_writer(&mut archive, &(self, faults))?;
            archive.start_file("pixels", options.large_file(true))?;
            images.iter().flatten().try_for_each(|image| archive.write_all(image))?;
            Ok(archive.finish()?.into_inner())
        };
        // In memory first: a zip writer that meets a full disc says so on standard error, whoever asks.
        let archive = archive().map_err(|e| Error::file(path, e))?;
        write_atomically(path, |writer| writer.write_all(&archive))
    }
}
