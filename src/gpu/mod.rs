//! The CUDA backend: the host side of every kernel, over one [`driver::Driver`] that a GPU or its emulation stands behind.
//!
//! Each stage is one file: check -> args -> launch. A stage knows the buffers that it reads and writes, never another stage.

pub mod args;
pub mod buffer;
pub mod carve;
pub mod combine;
pub mod contrast;
pub mod driver;
pub mod experts;
pub mod facts;
pub mod fol;
pub mod gate;
pub mod kernels;
pub mod limits;
#[cfg(feature = "cuda")]
pub mod machine;
mod maps;
pub mod moe;
pub mod moments;
pub mod plan;
#[cfg(feature = "cuda")]
pub mod report;
pub mod route;
#[cfg(feature = "cuda")]
pub mod safe;
pub mod session;
pub mod transport;

use driver::{Driver, Shape, Stream};

/// Warps of a block, in kernels that give a warp one row or one expert.
const WARPS: u32 = 8;

/// Where kernels are launched: a device, and a stream of it.
#[derive(Clone, Copy, Debug)]
pub struct Queue<'a> {
    /// The device.
    pub driver: &'a dyn Driver,
    /// The caller's stream: nothing is launched on another.
    pub stream: Stream,
}

impl Queue<'_> {
    /// So many blocks as there is work for, but no more than `each` a multiprocessor: their loops do the rest.
    fn blocks(&self, work: u32, each: u32) -> u32 {
        work.clamp(1, self.driver.facts().multiprocessors.max(1) * each)
    }

    /// Launches the kernel of that name.
    ///
    /// # Safety
    /// As [`driver::launch`].
    #[allow(unsafe_code)]
    pub unsafe fn launch<A: args::Args>(&self, name: &str, shape: Shape, args: &A) -> crate::error::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { driver::launch(self.driver, self.stream, name, shape, args) }
    }
}
