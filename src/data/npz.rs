//! Arrays from the npz files of NumPy: zip archives, stored or deflated, of npy files.

use half::f16;
use npyz::{DType, Deserialize, NpyFile, Order, TypeChar};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;
use zip::{ZipArchive, result::ZipError};

/// What is wrong with a file, as the end of a sentence that begins with its path.
pub(super) type Fault = String;

/// The most bytes that one array may unfold to: six times a FairVLMed image in double precision.
const LARGEST: u64 = 16 << 20;

/// An open npz file.
pub(super) struct Npz(ZipArchive<BufReader<File>>);

/// A table of numbers, row after row.
pub(super) struct Numbers {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

impl Npz {
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        // Before it is opened: to open a pipe is to wait for whoever writes to it.
        if !fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
            return Err("this is no file".into());
        }
        let file = File::open(path).map_err(|e| e.to_string())?;
        ZipArchive::new(BufReader::new(file)).map(Npz).map_err(|e| format!("this is no whole npz file: {e}"))
    }

    /// Whether an array is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.index_for_name(&format!("{name}.npy")).is_some()
    }

    /// A whole array of numbers.
    pub(super) fn numbers(&mut self, name: &str) -> Result<Numbers, Fault> {
        let bytes = self.read(name)?;
        open(&bytes).and_then(numbers).map_err(|why| format!("{name}: {why}"))
    }

    /// The one element of an array: a number, or a text that spells one.
    pub(super) fn number(&mut self, name: &str) -> Result<f64, Fault> {
        let bytes = self.read(name)?;
        open(&bytes).and_then(number).map_err(|why| format!("{name}: {why}"))
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, Fault> {
        let entry = match self.0.by_name(&format!("{name}.npy")) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Err(format!("it holds no {name}")),
            Err(e) => return Err(format!("{name}: {e}")),
        };
        // The sizes that an archive claims are not to be trusted: memory grows with what is really there, up to the limit.
        let mut bytes = vec![];
        entry.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
        if bytes.len() as u64 > LARGEST {
            return Err(format!("{name}: it unfolds to more than {} MiB", LARGEST >> 20));
        }
        Ok(bytes)
    }
}

/// Reads an npy file's header, and checks that the file holds what the header promises.
fn open(npy: &[u8]) -> Result<NpyFile<&[u8]>, Fault> {
    let text = header_text(npy).ok_or("this is no npy file")?;
    if !is_plain(text) {
        return Err(format!("its header is not that of a plain array: {}", text.trim_end()));
    }
    let array = NpyFile::new(npy).map_err(|e| e.to_string())?;
    if array.uses_pickled_array() {
        return Err("it holds pickled objects, which are not read".into());
    }
    let held = array.clone().into_inner().len();
    let promised = array.dtype().num_bytes().and_then(|n| usize::try_from(array.len()).ok()?.checked_mul(n));
    match promised {
        Some(promised) if promised <= held => Ok(array),
        _ => Err(format!("its header promises the shape {:?}, but only {held} bytes follow", array.shape())),
    }
}

/// The Python literal that describes an array. None where there is none, or it is longer than that of any plain array.
fn header_text(npy: &[u8]) -> Option<&str> {
    let (length, text) = match npy.strip_prefix(b"\x93NUMPY")? {
        [1, 0, a, b, text @ ..] => (u32::from(u16::from_le_bytes([*a, *b])), text),
        [2 | 3, 0, a, b, c, d, text @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), text),
        _ => return None,
    };
    std::str::from_utf8(text.get(..length.min(LONGEST_HEADER) as usize).filter(|_| length <= LONGEST_HEADER)?).ok()
}

/// NumPy pads a plain array's header to 128 bytes, or little more.
const LONGEST_HEADER: u32 = 512;

/// Whether npyz can read this header safely: it multiplies sizes unchecked, and descends into brackets without a limit.
fn is_plain(header: &str) -> bool {
    let words = header.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut numbers = words.filter(|w| w.starts_with(|c: char| c.is_numeric()));
    let product = numbers.try_fold(1u64, |product, w| product.checked_mul(w.parse::<u64>().ok()?.max(1)));
    product.is_some() && header.matches(['(', '[', '{']).count() <= 4
}

fn numbers(array: NpyFile<&[u8]>) -> Result<Numbers, Fault> {
    let shape = array.shape().iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let by_column = array.order() == Order::Fortran;
    let mut values = floats(array, |x| x as f32)?;
    if let ([rows, columns], true) = (&shape[..], by_column) {
        values = (0..values.len()).map(|i| values[i % columns * rows + i / columns]).collect();
    }
    Ok(Numbers { shape, values })
}

/// All elements, each read as a number of 64 bits, of which `keep` is kept.
fn floats<T>(array: NpyFile<&[u8]>, keep: impl Fn(f64) -> T) -> Result<Vec<T>, Fault> {
    let DType::Plain(kind) = array.dtype() else { return Err("it holds records, not numbers".into()) };
    match (kind.type_char(), kind.size_field()) {
        (TypeChar::Bool, _) => all(array, |b: bool| keep(u8::from(b).into())),
        (TypeChar::Int, 1) => all(array, |n: i8| keep(n.into())),
        (TypeChar::Int, 2) => all(array, |n: i16| keep(n.into())),
        (TypeChar::Int, 4) => all(array, |n: i32| keep(n.into())),
        (TypeChar::Int, 8) => all(array, |n: i64| keep(n as f64)),
        (TypeChar::Uint, 1) => all(array, |n: u8| keep(n.into())),
        (TypeChar::Uint, 2) => all(array, |n: u16| keep(n.into())),
        (TypeChar::Uint, 4) => all(array, |n: u32| keep(n.into())),
        (TypeChar::Uint, 8) => all(array, |n: u64| keep(n as f64)),
        (TypeChar::Float, 2) => all(array, |x: f16| keep(x.into())),
        (TypeChar::Float, 4) => all(array, |x: f32| keep(x.into())),
        (TypeChar::Float, 8) => all(array, keep),
        _ => Err(format!("numbers are integers, floats up to 64 bits, or bools, but these are {kind}")),
    }
}

fn all<S: Deserialize, T>(array: NpyFile<&[u8]>, number: impl Fn(S) -> T) -> Result<Vec<T>, Fault> {
    let elements = array.data().map_err(|e| e.to_string())?;
    elements.map(|element| element.map(&number)).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn number(array: NpyFile<&[u8]>) -> Result<f64, Fault> {
    if array.len() != 1 {
        return Err(format!("it must hold one number, but has shape {:?}", array.shape()));
    }
    let is_text =
        matches!(array.dtype(), DType::Plain(kind) if matches!(kind.type_char(), TypeChar::UnicodeStr | TypeChar::ByteStr));
    if is_text {
        let text: Vec<String> = array.into_vec().map_err(|e| e.to_string())?;
        let text = text.concat();
        let shown = || text.chars().take(40).collect::<String>();
        return text.trim().parse().map_err(|_| format!("it must be a number, but is the text {:?}", shown()));
    }
    Ok(floats(array, |x| x)?.into_iter().sum())
}
