//! One block of the caller's memory as several buffers.

use super::driver::Pointer;
use super::moe::Workspace;
use crate::error::{Error, Result, product};

/// What every buffer in a block begins at a multiple of, as seen from the block's beginning.
const ALIGNMENT: usize = 256;

/// Takes buffers off a block, one behind the other; what it takes from address 0 tells how large the block has to be.
#[derive(Clone, Copy, Debug)]
pub struct Carve {
    begin: Pointer,
    used: usize,
}

impl Carve {
    /// Of the block that begins there.
    pub fn new(begin: Pointer) -> Self {
        Self { begin, used: 0 }
    }

    /// The next buffer: so many elements of so many bytes.
    pub fn take(&mut self, what: &'static str, sizes: &[usize], element: usize) -> Result<Pointer> {
        let bytes = product(what, &[sizes, &[element]].concat())?;
        let at = self.begin.checked_add(self.used as Pointer);
        let used = bytes.checked_next_multiple_of(ALIGNMENT).and_then(|bytes| self.used.checked_add(bytes));
        let (Some(at), Some(used)) = (at, used) else { return Err(Error::TooLarge { what, sizes: sizes.to_vec() }) };
        self.used = used;
        Ok(at)
    }

    /// Bytes that were taken.
    pub fn bytes(&self) -> usize {
        self.used
    }
}

/// Refuses a block that is smaller than what has to be in it, or begins where vectors cannot be read.
pub fn expect_room(what: &'static str, needed: usize, got: Workspace) -> Result<()> {
    if got.bytes < needed {
        return Err(Error::config(what, format!("at least {needed} bytes"), format!("{} bytes", got.bytes)));
    }
    match got.at % 16 {
        0 => Ok(()),
        _ => Err(Error::config(what, "at a multiple of 16", format!("at {:#x}", got.at))),
    }
}
