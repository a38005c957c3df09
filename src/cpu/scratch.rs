//! Buffers that a thread keeps from call to call: at these sizes asking the system for fresh pages costs as much as using them.

use std::cell::RefCell;

/// As many as one call of one thread holds at a time; further ones are given back to the system.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of any number type, with whatever was last in it. Goes back to its thread when dropped.
pub struct Scratch {
    words: Vec<u64>,
    bytes: usize,
}

impl Scratch {
    /// Room for `n` elements of T.
    pub fn new<T: bytemuck::Pod>(n: usize) -> Self {
        let mut words = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        let bytes = n * size_of::<T>();
        if words.len() < bytes.div_ceil(8) {
            words.resize(bytes.div_ceil(8), 0);
        }
        Self { words, bytes }
    }

    /// Its elements, as the type that it was made for.
    pub fn get<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&bytemuck::cast_slice::<u64, u8>(&self.words)[..self.bytes])
    }

    /// Its elements, to write.
    pub fn get_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut bytemuck::cast_slice_mut::<u64, u8>(&mut self.words)[..self.bytes])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < KEPT {
                pool.push(std::mem::take(&mut self.words));
            }
        });
    }
}
