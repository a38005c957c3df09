//! A stream of one's own, and buffers on it.

use super::Queue;
use super::buffer::Buffer;
use super::driver::{Driver, Stream};
use crate::error::Result;
use bytemuck::Pod;
use std::sync::Arc;

/// A stream of a device. It ends with this, so its buffers have to go first.
#[derive(Debug)]
pub struct Session {
    driver: Arc<dyn Driver>,
    stream: Stream,
}

impl Session {
    /// With a new stream.
    pub fn new(driver: &Arc<dyn Driver>) -> Result<Self> {
        Ok(Self { driver: driver.clone(), stream: driver.new_stream()? })
    }

    /// Where to launch.
    pub fn queue(&self) -> Queue<'_> {
        Queue { driver: self.driver.as_ref(), stream: self.stream }
    }

    /// Memory that holds nothing in particular.
    pub fn empty<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        Buffer::new(&self.driver, self.stream, len)
    }

    /// Memory that holds what the slice holds.
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<Buffer<T>> {
        Buffer::from_slice(&self.driver, self.stream, values)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.end_stream(self.stream);
    }
}
