//! Where a tensor's numbers lie in a file.

use super::Fault;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// A view of a file's bytes as a tensor. Nothing is read before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct Stored {
    pub(super) dtype: Dtype,
    /// Where in the file its first element begins.
    pub(super) start: u64,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub(super) strides: Vec<usize>,
}

impl Stored {
    /// Row after row from `start`.
    pub(super) fn contiguous(dtype: Dtype, start: u64, shape: Vec<usize>) -> Self {
        let strides = row_major(&shape);
        Self { dtype, start, shape, strides }
    }

    /// How many elements it has, and how many lie from its first to its last, both counted.
    pub(super) fn extent(&self) -> Result<(usize, usize), Fault> {
        let elements = self.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let reach =
            |last: usize, (&size, &stride): (&usize, &usize)| last.checked_add(size.saturating_sub(1).checked_mul(stride)?);
        let span = self.shape.iter().zip(&self.strides).try_fold(1usize, reach);
        match (elements, span) {
            (Some(0), _) => Ok((0, 0)),
            (Some(elements), Some(span)) if self.shape.len() == self.strides.len() => Ok((elements, span)),
            _ => Err(format!("a tensor of shape {:?} with strides {:?} cannot be", self.shape, self.strides)),
        }
    }

    /// Rows as columns; none unless it is a matrix.
    pub(super) fn transposed(mut self) -> Option<Self> {
        self.strides.reverse();
        self.shape.reverse();
        (self.shape.len() == 2).then_some(self)
    }

    /// The first, second and third part of its rows; none unless these are a multiple of three.
    pub(super) fn thirds(self) -> Option<[Self; 3]> {
        let rows = self.shape.first().filter(|n| n.is_multiple_of(3))? / 3;
        let bytes = (rows as u64).checked_mul(*self.strides.first()? as u64)?.checked_mul(size(self.dtype) as u64)?;
        let mut parts = [self.clone(), self.clone(), self];
        for (i, part) in parts.iter_mut().enumerate() {
            part.shape[0] = rows;
            part.start = part.start.checked_add(bytes.checked_mul(i as u64)?)?;
        }
        Some(parts)
    }

    /// Its elements, row after row, each as its bytes.
    pub(super) fn bytes(&self, mut file: &File) -> Result<Vec<u8>, Fault> {
        let (elements, span) = self.extent()?;
        let size = size(self.dtype);
        let mut bytes = vec![0; span * size];
        let read = file.seek(SeekFrom::Start(self.start)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|e| format!("the numbers of a tensor cannot be read: {e}"))?;
        if self.strides == row_major(&self.shape) {
            return Ok(bytes);
        }
        let mut rows = Vec::with_capacity(elements * size);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..elements {
            let place: usize = index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
            rows.extend_from_slice(&bytes[place * size..][..size]);
            for (i, n) in index.iter_mut().zip(&self.shape).rev() {
                *i = (*i + 1) % n;
                if *i != 0 {
                    break;
                }
            }
        }
        Ok(rows)
    }

    /// The tensor itself, in its own type of numbers.
    pub(in crate::model) fn tensor(&self, file: &File) -> Result<Tensor, Fault> {
        let dtype = DType::try_from(self.dtype).map_err(|_| format!("a tensor of {} is not read", kind(self.dtype)))?;
        Tensor::from_raw_buffer(&self.bytes(file)?, dtype, &self.shape, &Device::Cpu).map_err(|e| e.to_string())
    }
}

/// Bytes of an element; types of less than a byte are never read.
pub(super) fn size(dtype: Dtype) -> usize {
    dtype.bitsize().div_ceil(8)
}

/// What a type of numbers is called.
pub(super) fn kind(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = shape[i].saturating_mul(strides[i]);
    }
    strides
}
