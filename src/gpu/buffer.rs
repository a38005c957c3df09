//! Device memory that gives itself back, and what is read from it and written to it as slices.

// SAFETY: a buffer's address holds its length in elements for as long as the buffer lives, and nothing here goes beyond.
#![allow(unsafe_code)]

use super::Queue;
use super::driver::Pointer;
use super::session::Session;
use crate::error::{Result, product};
use bytemuck::Pod;
use std::marker::PhantomData;

/// `len` elements of device memory, on the stream of a session.
#[derive(Debug)]
pub struct Buffer<T> {
    session: Session,
    pointer: Pointer,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Holds nothing in particular. None of length 0 is allocated: its address is 0.
    pub(super) fn new(session: &Session, len: usize) -> Result<Self> {
        let bytes = product("a device buffer", &[len, size_of::<T>()])?;
        let pointer = if bytes == 0 { 0 } else { session.queue().driver.allocate(bytes)? };
        Ok(Self { session: session.clone(), pointer, len, element: PhantomData })
    }

    /// Holds what the slice holds.
    pub(super) fn from_slice(session: &Session, values: &[T]) -> Result<Self> {
        let buffer = Self::new(session, values.len())?;
        if !values.is_empty() {
            let Queue { driver, stream } = session.queue();
            // SAFETY: it was made as long as the slice.
            unsafe { driver.write(stream, buffer.pointer, bytemuck::cast_slice(values))? };
        }
        Ok(buffer)
    }

    /// Its address.
    pub fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first `to.len()` elements, once the stream has done what was before.
    pub fn read(&self, to: &mut [T]) -> Result<()> {
        crate::error::expect_shape("what is read from a device buffer", &[to.len().min(self.len)], to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        let Queue { driver, stream } = self.session.queue();
        // SAFETY: no longer than the buffer.
        unsafe { driver.read(stream, self.pointer, bytemuck::cast_slice_mut(to)) }
    }

    /// All of it.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.read(&mut values)?;
        Ok(values)
    }
}

impl<T> Buffer<T> {
    /// Gives it back, and tells what is wrong with it, such as that a kernel wrote beside it.
    pub fn free(mut self) -> Result<()> {
        let at = std::mem::take(&mut self.pointer);
        // SAFETY: its own, given back once.
        if at == 0 { Ok(()) } else { unsafe { self.session.queue().driver.free(at) } }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pointer != 0 {
            let Queue { driver, stream } = self.session.queue();
            // SAFETY: its own, given back once, when work that still reads it has ended. There is nobody to tell of an error.
            unsafe {
                let _ = driver.synchronise(stream);
                let _ = driver.free(self.pointer);
            }
        }
    }
}
