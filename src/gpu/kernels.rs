//! The one table of kernels, which NVRTC, the emulation and `fair-moe kernels` share. It is read from the `KERNEL` lines of the sources.

/// One kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its name, `<what>_<dtype>`.
    pub name: &'static str,
    /// The file below `kernels/` that defines it.
    pub file: &'static str,
    /// The struct that it takes.
    pub args: &'static str,
    /// That struct's size.
    pub args_bytes: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Whether it exists for sm_90a alone.
    pub hopper: bool,
}

/// The kernel of that name.
pub fn find(name: &str) -> Option<&'static Kernel> {
    let mut all = KERNELS.iter();
    #[cfg(feature = "emulate")]
    let mut all = all.by_ref().chain(PLANTED);
    all.find(|kernel| kernel.name == name)
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
