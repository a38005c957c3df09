//! The seam between the host code and what runs kernels: a CUDA device, or its emulation on the CPU.

#[cfg(feature = "cuda")]
pub mod cache;
#[cfg(feature = "cuda")]
pub mod compiler;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "emulate")]
pub mod emulated;
#[cfg(feature = "cuda")]
mod libcuda;
#[cfg(feature = "cuda")]
pub mod locate;
#[cfg(feature = "cuda")]
mod modules;
#[cfg(feature = "cuda")]
pub mod nvrtc;
#[cfg(feature = "cuda")]
pub mod program;

use super::args::{Args, TensorMap};
use super::kernels::{Kernel, find};
use crate::dtype::DType;
use crate::error::{Error, Result};
use std::fmt;

/// A device address; 0 is none.
pub type Pointer = u64;

/// A `CUstream`. Work on one runs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(pub u64);

/// What a driver recorded between `begin_capture` and `end_capture`.
#[derive(Debug, PartialEq, Eq)]
pub struct Graph(pub u64);

/// A moment on a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Event(pub u64);

/// Whose instructions a kernel is compiled to: `sm_80`, `sm_90a` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arch(pub u32);

impl Arch {
    /// All that every kernel is compiled for before a release.
    pub const ALL: [Arch; 6] = [Arch(80), Arch(86), Arch(89), Arch(90), Arch(100), Arch(120)];
    /// The one with wgmma.
    pub const HOPPER: Arch = Arch(90);
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // From 9.0 on, what is particular to an architecture needs the `a`.
        write!(f, "sm_{}{}", self.0, if self.0 >= 90 { "a" } else { "" })
    }
}

impl std::str::FromStr for Arch {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|arch| arch.to_string() == name || format!("sm_{}", arch.0) == name);
        known.ok_or_else(|| Error::config("the architecture", "one of sm_80, sm_86, sm_89, sm_90a, sm_100a and sm_120a", name))
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, in bytes.
    pub shared_bytes: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Second-level cache in bytes.
    pub cache_bytes: u64,
    /// The driver's version, as 13000 for 13.0; 0 where there is none.
    pub driver: u32,
}

/// One kernel's launch, but for its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Whether all blocks must run at the same time, as those do that wait for one another.
    pub cooperative: bool,
    /// Blocks of a cluster; [1, 1, 1]: none.
    pub cluster: [u32; 3],
    /// Whether it may begin, from sm_90 on, before the kernel ahead of it has ended. Every kernel waits for that by itself: see
    /// `wait_for_launches_ahead` in kernels/lib/types.cuh.
    pub dependent: bool,
}

impl Shape {
    /// So many blocks in one dimension, the first of which may begin before the kernel ahead has ended.
    pub fn blocks(blocks: u32) -> Self {
        Self { grid: [blocks, 1, 1], shared_bytes: 0, cooperative: false, cluster: [1; 3], dependent: true }
    }

    /// With so much dynamic shared memory.
    pub fn shared(self, bytes: u32) -> Self {
        Self { shared_bytes: bytes, ..self }
    }

    /// With all blocks at the same time; so it waits for the room that the kernel ahead takes, and no document says that it may do both.
    pub fn cooperative(self) -> Self {
        Self { cooperative: true, dependent: false, ..self }
    }
}

/// A tensor in device memory, and the box of it that one load brings into shared memory: what `cuTensorMapEncodeTiled` takes. The
/// elements are not interleaved, every one of a box is taken, and what lies outside the tensor comes as zeros.
#[derive(Clone, Copy, Debug)]
pub struct Tiled<'a> {
    /// `F32`, `F16` or `Bf16`.
    pub dtype: DType,
    /// Where it begins: a multiple of 16.
    pub base: Pointer,
    /// Its elements in each dimension, the innermost first: 1 to 5 of them, each 1 to 2^32.
    pub dims: &'a [u64],
    /// Bytes from one element to the next in each dimension but the innermost, where they lie side by side: multiples of 16, below 2^40.
    pub strides: &'a [u64],
    /// The box's elements in each dimension: 1 to 256; its rows are a multiple of 16 bytes.
    pub box_dims: &'a [u32],
    /// Whether rows of at most 128 bytes are swizzled as wgmma reads them; else they lie as they are.
    pub swizzle: bool,
}

#[cfg(any(feature = "cuda", feature = "emulate"))]
impl Tiled<'_> {
    /// How many dimensions it has, once its lists are as long as that asks for.
    pub(crate) fn rank(&self) -> Result<u32> {
        let rank = self.dims.len();
        let fits = (1..=5).contains(&rank) && self.strides.len() + 1 == rank && self.box_dims.len() == rank;
        if fits { Ok(rank as u32) } else { Err(self.refused()) }
    }

    pub(crate) fn refused(&self) -> Error {
        Error::Refused(format!("there is no tensor map of {self:?}"))
    }
}

/// What runs kernels. Addresses and handles are plain numbers: who holds one answers for it, see `buffer` and `session`.
///
/// # Safety
/// Every unsafe function relies on the addresses and handles that it takes: that this driver gave it and it still stands, that it holds as
/// many bytes as are read or written, and that the stream's earlier work is what orders accesses to it.
pub trait Driver: Send + Sync + fmt::Debug {
    /// What the device is.
    fn facts(&self) -> &Facts;

    /// A stream of its own.
    fn new_stream(&self) -> Result<Stream>;
    /// Gives a stream back, when its work is done.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn end_stream(&self, stream: Stream);
    /// Waits for all work on a stream.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn synchronise(&self, stream: Stream) -> Result<()>;

    /// Memory of so many bytes, aligned to 256 on a GPU and to 16 when emulated.
    fn allocate(&self, bytes: usize) -> Result<Pointer>;
    /// Gives memory back.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn free(&self, at: Pointer) -> Result<()>;
    /// Sets bytes.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn fill(&self, stream: Stream, at: Pointer, value: u8, bytes: usize) -> Result<()>;
    /// From the host; the bytes have been read when it returns.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn write(&self, stream: Stream, to: Pointer, from: &[u8]) -> Result<()>;
    /// To the host; waits for the stream.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn read(&self, stream: Stream, from: Pointer, to: &mut [u8]) -> Result<()>;

    /// Describes a tensor to the tensor-map loads of sm_90a; the map is passed inside an argument struct. It does not touch the memory,
    /// and is refused where [`Tiled`] says what its fields have to be.
    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap>;

    /// Makes kernels ready, so that a launch neither compiles nor loads.
    fn prepare(&self, kernels: &[&'static Kernel]) -> Result<()>;
    /// Launches a kernel, made ready first if it is not. `args` points to the struct that the kernel takes.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn launch_raw(&self, stream: Stream, kernel: &'static Kernel, shape: Shape, args: *const u8) -> Result<()>;

    /// From here on, launches on the stream are recorded and not run; allocation, copies and waits on it are errors.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn begin_capture(&self, stream: Stream) -> Result<()>;
    /// What was recorded.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn end_capture(&self, stream: Stream) -> Result<Graph>;
    /// The names of the kernels that it launches, in order.
    fn graph_kernels(&self, graph: &Graph) -> Vec<&'static str>;
    /// Runs what was recorded.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn replay(&self, stream: Stream, graph: &Graph) -> Result<()>;
    /// Gives it back.
    fn end_graph(&self, graph: Graph);

    /// A new event.
    fn new_event(&self) -> Result<Event>;
    /// Marks the moment when the stream's work so far is done.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn record(&self, stream: Stream, event: &Event) -> Result<()>;
    /// Milliseconds between two recorded moments; waits for both.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn elapsed_ms(&self, from: &Event, to: &Event) -> Result<f32>;
    /// Gives it back.
    ///
    /// # Safety
    /// As of the whole trait.
    #[allow(unsafe_code)]
    unsafe fn end_event(&self, event: Event);
}

/// Launches the kernel of that name.
///
/// # Safety
/// Every address in `args` holds what the kernel reads and writes there, until the stream has passed the launch.
#[allow(unsafe_code)]
pub unsafe fn launch<A: Args>(driver: &dyn Driver, stream: Stream, name: &str, shape: Shape, args: &A) -> Result<()> {
    let kernel = find(name).filter(|kernel| kernel.args == A::NAME && kernel.args_bytes == size_of::<A>());
    let kernel = kernel.ok_or_else(|| Error::Refused(format!("there is no kernel {name} that takes {}", A::NAME)))?;
    if shape.grid.contains(&0) {
        return Ok(());
    }
    // SAFETY: the struct is the one that the kernel takes; what its addresses hold is the caller's promise.
    unsafe { driver.launch_raw(stream, kernel, shape, (args as *const A).cast()) }
}
