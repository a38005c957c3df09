//! A stream of one's own, and buffers on it.

// SAFETY: the stream is this session's alone, and ends with the last that holds it.
#![allow(unsafe_code)]

use super::Queue;
use super::buffer::Buffer;
use super::driver::{Driver, Stream};
use crate::error::Result;
use bytemuck::Pod;
use std::sync::Arc;

/// A stream of a device. A copy is the same one; it ends with the last copy and the last of its buffers.
#[derive(Clone, Debug)]
pub struct Session(Arc<OwnStream>);

#[derive(Debug)]
struct OwnStream {
    driver: Arc<dyn Driver>,
    stream: Stream,
}

impl Session {
    /// With a new stream.
    pub fn new(driver: &Arc<dyn Driver>) -> Result<Self> {
        Ok(Self(Arc::new(OwnStream { driver: driver.clone(), stream: driver.new_stream()? })))
    }

    /// Where to launch.
    pub fn queue(&self) -> Queue<'_> {
        Queue { driver: self.0.driver.as_ref(), stream: self.0.stream }
    }

    /// Memory that holds nothing in particular.
    pub fn empty<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        Buffer::new(self, len)
    }

    /// Memory that holds what the slice holds.
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<Buffer<T>> {
        Buffer::from_slice(self, values)
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { self.driver.end_stream(self.stream) };
    }
}
