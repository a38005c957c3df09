//! The kernels' argument structs, as `kernels/args/*.cuh` declares them. A pointer is a device address, 0 for none.

// SAFETY: a `Plain` struct consists of integers and floats alone, for which all bytes 0 are a value.
#![allow(unsafe_code)]

/// What `include!` below implements for every struct of integers, floats and such structs.
pub(crate) trait Plain: Copy {}

/// What one kernel takes, by value.
pub trait Args: Copy {
    /// The struct's name.
    const NAME: &'static str;
}

fn zeroed<T: Plain>() -> T {
    // SAFETY: as above.
    unsafe { std::mem::zeroed() }
}

/// `CUtensorMap`: opaque.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TensorMap(pub [u64; 16]);

include!(concat!(env!("OUT_DIR"), "/args.rs"));
