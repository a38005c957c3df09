//! PyTorch's zip archives: a pickle, and a record of numbers for each storage.

use super::Fault;
use std::fs::File;
use std::io::{BufReader, Read};
use zip::{CompressionMethod, ZipArchive};

/// An open archive.
pub(super) struct Archive<'a> {
    zip: ZipArchive<BufReader<&'a File>>,
    length: u64,
    /// The folder that all records are in.
    root: String,
}

/// Where a record's bytes lie in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn open(file: &'a File, length: u64) -> Result<Self, Fault> {
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| format!("this is no whole zip archive: {e}"))?;
        let names = zip.file_names().filter_map(|name| name.ok());
        let roots = names.filter_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()));
        let root = roots.filter(|root| root.is_empty() || root.ends_with('/')).min_by_key(String::len);
        let root = root.ok_or("this zip archive is none of PyTorch: it holds no data.pkl")?;
        let mut archive = Self { zip, length, root };
        match archive.read("byteorder")?.as_deref() {
            None | Some(b"little") => Ok(archive),
            Some(b"big") => {
                Err("its numbers are stored by a big-endian machine: load it there and save it as safetensors".into())
            }
            Some(order) => Err(format!("its numbers must be stored little-endian, but are {:?}", String::from_utf8_lossy(order))),
        }
    }

    /// Whether it is a TorchScript module, not what `torch.save` writes.
    pub(super) fn is_script(&self) -> bool {
        self.zip.index_for_name(&format!("{}constants.pkl", self.root)).is_some()
    }

    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, Fault> {
        self.read("data.pkl")?.ok_or_else(|| "its data.pkl is not there".into())
    }

    /// Where the numbers of a storage lie.
    pub(super) fn storage(&mut self, key: &str) -> Result<Record, Fault> {
        let name = format!("{}data/{key}", self.root);
        let shown = name.escape_debug();
        let index = self.zip.index_for_name(&name).ok_or_else(|| format!("its record {shown} is missing"))?;
        let entry = self.zip.by_index_raw(index).map_err(|e| format!("its record {shown}: {e}"))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(compressed(&name));
        }
        let (start, length) = (entry.data_start(), entry.compressed_size());
        let start = start.filter(|start| start.checked_add(length).is_some_and(|end| end <= self.length));
        let start =
            start.ok_or_else(|| format!("its record {shown} should have {length} bytes, which the file does not hold"))?;
        Ok(Record { start, length })
    }

    /// A record as a whole, if it is there.
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let Some(index) = self.zip.index_for_name(&format!("{}{name}", self.root)) else { return Ok(None) };
        let mut entry = self.zip.by_index(index).map_err(|e| format!("its record {name}: {e}"))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(compressed(name));
        }
        // As it is not unfolded, it cannot be longer than the file, whatever size is claimed.
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).map_err(|e| format!("its record {name}: {e}"))?;
        Ok(Some(bytes))
    }
}

fn compressed(name: &str) -> Fault {
    format!("its record {} is compressed or encrypted, which PyTorch's are not", name.escape_debug())
}
