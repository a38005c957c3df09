//! Reading a case file: every setting and tensor is asked for by name, shape and type, and refused in a sentence.

use crate::dtype::Element;
use crate::error::{Error, Result};
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A case file in memory. Inputs are taken out of it; what is left at the end are the results that it asks for.
#[derive(Debug)]
pub struct Case {
    path: PathBuf,
    settings: Option<std::collections::HashMap<String, String>>,
    tensors: BTreeMap<String, TensorInfo>,
    bytes: Vec<u8>,
    /// Where the tensors' data begin in `bytes`.
    start: usize,
}

impl Case {
    /// Reads a file; its tensors stay in the type that they are stored in until they are asked for.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a whole `.safetensors` file.
    pub fn read(path: &Path) -> Result<Case> {
        let failed = |why: std::io::Error| Error::file(path, why);
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::file(path, "must be a file"));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Self::parse(path, bytes).map_err(|why| Error::file(path, why))
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> std::result::Result<Case, String> {
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(format!("must begin with the 8 bytes of its header's length, but has {} bytes in all", bytes.len()));
        };
        let length = u64::from_le_bytes(*length);
        if length > rest.len() as u64 {
            return Err(format!("its header claims {length} bytes, but only {} bytes follow", rest.len()));
        }
        let bad = |why| format!("is not a .safetensors file with a case: {why}");
        let (length, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
        let settings = metadata.metadata().clone();
        let tensors = Metadata::tensors(&metadata).into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Case { path: path.to_owned(), settings, tensors, start: 8 + length, bytes })
    }

    /// An error that names the file.
    pub(crate) fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::file(&self.path, why)
    }

    /// A setting's JSON value; none where it is absent.
    fn setting(&self, key: &str) -> Result<Option<Value>> {
        let Some(text) = self.settings.as_ref().and_then(|s| s.get(key)) else { return Ok(None) };
        let value = serde_json::from_str(text);
        value.map(Some).map_err(|_| self.error(format!("setting {key} must be a JSON value, but is {}", cut(text))))
    }

    /// A setting that must be there, as what `read` makes of it.
    fn required<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let value = self.setting(key)?.ok_or_else(|| self.error(format!("setting {key} is missing; it must be {expected}")))?;
        read(&value).ok_or_else(|| self.error(format!("setting {key} must be {expected}, but is {}", cut(&value.to_string()))))
    }

    /// A setting that is a text.
    pub(crate) fn text(&self, key: &str) -> Result<String> {
        self.required(key, "a text", |v| v.as_str().map(str::to_owned))
    }

    /// A setting that is the name of something, such as an activation.
    pub(crate) fn named<T: std::str::FromStr<Err = Error>>(&self, key: &str) -> Result<T> {
        self.text(key)?.parse().map_err(|why| self.error(format!("setting {key}: {why}")))
    }

    /// A setting that counts something.
    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.required(key, "a whole number of at least 1", whole)
    }

    /// A setting that counts something, or is null.
    pub(crate) fn size_or_null(&self, key: &str) -> Result<Option<usize>> {
        let read = |v: &Value| if v.is_null() { Some(None) } else { whole(v).map(Some) };
        self.required(key, "a whole number of at least 1, or null", read)
    }

    /// A setting that is a list.
    #[cfg(feature = "model")]
    pub(crate) fn list(&self, key: &str) -> Result<Vec<Value>> {
        self.required(key, "a list", |v| v.as_array().cloned())
    }

    /// A setting that is a number.
    pub(crate) fn number(&self, key: &str) -> Result<f64> {
        self.required(key, "a number", Value::as_f64)
    }

    /// A setting that is true or false.
    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        self.required(key, "true or false", Value::as_bool)
    }

    /// The same, true where it is absent.
    pub(crate) fn flag_or_true(&self, key: &str) -> Result<bool> {
        if self.setting(key)?.is_some() { self.flag(key) } else { Ok(true) }
    }

    /// The same, false where it is absent.
    #[cfg(feature = "model")]
    pub(crate) fn flag_or_false(&self, key: &str) -> Result<bool> {
        if self.setting(key)?.is_some() { self.flag(key) } else { Ok(false) }
    }

    /// What counts something, in a setting that is an object of such.
    #[cfg(feature = "model")]
    pub(crate) fn size_in(&self, key: &str, member: &str) -> Result<usize> {
        let object = self.required(key, "an object", |v| v.as_object().cloned())?;
        object.get(member).and_then(whole).ok_or_else(|| {
            let got = object.get(member).map_or("missing".to_owned(), |v| cut(&v.to_string()));
            self.error(format!("setting {key}.{member} must be a whole number of at least 1, but is {got}"))
        })
    }

    /// Whether a setting is there.
    pub(crate) fn has_setting(&self, key: &str) -> bool {
        self.settings.as_ref().is_some_and(|s| s.contains_key(key))
    }

    /// Whether a tensor is there, and was not taken yet.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensors that were not taken, with their shapes, by name.
    pub(crate) fn remaining(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice()))
    }

    /// A tensor's shape, which must have `dims` dimensions, none of them 0.
    pub(crate) fn shape(&self, name: &str, dims: usize) -> Result<Vec<usize>> {
        let shape = &self.info(name)?.shape;
        if shape.len() == dims && !shape.contains(&0) {
            return Ok(shape.clone());
        }
        Err(self.error(format!("tensor {name} must have {dims} dimensions, none of them 0, but has shape {shape:?}")))
    }

    /// Whether a tensor is there; if it is, its shape must be this one.
    pub(crate) fn agrees(&self, name: &str, shape: &[usize]) -> Result<bool> {
        if self.has(name) { self.dtype(name, shape).map(|_| true) } else { Ok(false) }
    }

    /// Takes a tensor of floats.
    pub(crate) fn floats<T: Element>(&mut self, name: &str, shape: &[usize]) -> Result<Vec<T>> {
        let floats = match self.dtype(name, shape)? {
            Dtype::F64 => self.decode(name, |b| T::from_f64(f64::from_le_bytes(b))),
            Dtype::F32 => self.decode(name, |b| T::from_f64(f32::from_le_bytes(b).into())),
            Dtype::F16 => self.decode(name, |b| T::from_f64(f16::from_le_bytes(b).into())),
            Dtype::BF16 => self.decode(name, |b| T::from_f64(bf16::from_le_bytes(b).into())),
            other => Err(self.error(format!("tensor {name} must hold f64, f32, f16 or bf16, but holds {other:?}"))),
        }?;
        self.tensors.remove(name);
        Ok(floats)
    }

    /// Takes a tensor of whole numbers.
    pub(crate) fn integers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<i64>> {
        // Past i64 there is nothing that a label, a group or a pixel could be: any such number stands for too many.
        let integers = match self.dtype(name, shape)? {
            Dtype::I64 => self.decode(name, i64::from_le_bytes),
            Dtype::I32 => self.decode(name, |b| i32::from_le_bytes(b).into()),
            Dtype::I16 => self.decode(name, |b| i16::from_le_bytes(b).into()),
            Dtype::I8 => self.decode(name, |b| i8::from_le_bytes(b).into()),
            Dtype::U64 => self.decode(name, |b| i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX)),
            Dtype::U32 => self.decode(name, |b| u32::from_le_bytes(b).into()),
            Dtype::U16 => self.decode(name, |b| u16::from_le_bytes(b).into()),
            Dtype::U8 => self.decode(name, |b| u8::from_le_bytes(b).into()),
            other => Err(self.error(format!("tensor {name} must hold integers, but holds {other:?}"))),
        }?;
        self.tensors.remove(name);
        Ok(integers)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| self.error(format!("tensor {name} is missing")))
    }

    /// A tensor's type, once its shape is right.
    fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype> {
        let info = self.info(name)?;
        if info.shape == shape {
            return Ok(info.dtype);
        }
        Err(self.error(format!("tensor {name} must have shape {shape:?}, but has shape {:?}", info.shape)))
    }

    fn decode<T, const BYTES: usize>(&self, name: &str, element: impl Fn([u8; BYTES]) -> T) -> Result<Vec<T>> {
        let (from, to) = self.info(name)?.data_offsets;
        let data = self.bytes.get(self.start..).and_then(|data| data.get(from..to));
        let (elements, _) = data.ok_or_else(|| self.error(format!("tensor {name} lies beyond the file's end")))?.as_chunks();
        Ok(elements.iter().map(|&b| element(b)).collect())
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n >= 1)
}

/// At most the first 40 characters, for a message.
fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str(" ...");
    }
    short
}
