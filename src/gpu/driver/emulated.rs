//! The kernels on the CPU, compiled as C++ from the same sources. The seed chooses the order in which threads run, and the mode
//! when asynchronous copies land, so that a missing barrier shows. Device memory is host memory between pages that fault, and a launch
//! has ended when it returns.

// SAFETY: the C interface of kernels/host: handles are checked there or here; addresses are the callers' promise, as `Driver` says.
#![allow(unsafe_code)]

use super::{Arch, Driver, Event, Facts, Graph, Kernel, Pointer, Shape, Stream, Tiled};
use crate::error::{Error, Result};
use crate::gpu::args::TensorMap;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

mod linked {
    use super::*;
    unsafe extern "C" {
        pub fn emulate_launch(kernel: *const c_char, grid: *const u32, shared_bytes: usize, args: *const c_void) -> c_int;
        pub fn emulate_error() -> *const c_char;
        pub fn emulate_configure(os_threads: u32, seed: u64, mode: c_int, shared_limit: u32, cooperative: c_int);
        pub fn emulate_malloc(bytes: usize) -> *mut c_void;
        pub fn emulate_free(at: *mut c_void) -> c_int;
        pub fn emulate_kernel(number: c_int, name: *mut *const c_char, threads: *mut u32, args_bytes: *mut usize) -> c_int;
        pub fn emulate_tensor_map(
            out: *mut c_void,
            element: u32,
            rank: u32,
            base: *const c_void,
            dims: *const u64,
            strides: *const u64,
            box_dims: *const u32,
            swizzle: c_int,
        ) -> c_int;
        pub static fair_moe_layout: c_void;
    }
}

/// The compiled kernels and what runs them.
struct Library {
    launch: unsafe extern "C" fn(*const c_char, *const u32, usize, *const c_void) -> c_int,
    error: unsafe extern "C" fn() -> *const c_char,
    configure: unsafe extern "C" fn(u32, u64, c_int, u32, c_int),
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Library {
    /// Those that were linked in; or, where `FAIR_MOE_EMULATION` names a shared library, its own: that is how a change to a kernel
    /// is tried on every test without building the tests again.
    fn get() -> Result<&'static Library> {
        static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        let open = || match std::env::var_os("FAIR_MOE_EMULATION") {
            Some(path) => Self::load(&path).map_err(|why| format!("{}: {why}", path.display())),
            None => Ok(Self {
                launch: linked::emulate_launch,
                error: linked::emulate_error,
                configure: linked::emulate_configure,
                malloc: linked::emulate_malloc,
                free: linked::emulate_free,
            }),
        };
        LIBRARY.get_or_init(open).as_ref().map_err(|why| Error::Refused(why.clone()))
    }

    fn load(path: &std::ffi::OsStr) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: a library made from this crate's kernels, whose functions have these types. It is never unloaded.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path)?));
            Ok(Self {
                launch: *library.get(b"emulate_launch")?,
                error: *library.get(b"emulate_error")?,
                configure: *library.get(b"emulate_configure")?,
                malloc: *library.get(b"emulate_malloc")?,
                free: *library.get(b"emulate_free")?,
            })
        }
    }
}

/// How it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// 0: threads in order; 1: in reverse; else shuffled by it.
    pub seed: u64,
    /// 0: a copy lands at once; 1: as late as it may; 2: at random.
    pub mode: u32,
    /// Threads of the host that run blocks; 0: as many as it has.
    pub workers: u32,
    /// Whose kernels are launched.
    pub arch: Arch,
    /// How many multiprocessors the device says it has. Few: a persistent block then sees several tiles.
    pub multiprocessors: u32,
}

impl Settings {
    /// The mode follows from the seed, so that three seeds in a row have all of them.
    pub fn new(seed: u64, arch: Arch) -> Self {
        Self { seed, mode: (seed % 3) as u32, workers: 0, arch, multiprocessors: 3 }
    }
}

/// An emulated device.
#[derive(Debug)]
pub struct Emulated {
    settings: Settings,
    facts: Facts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// What each capturing stream has recorded.
    capturing: HashMap<u64, Vec<Recorded>>,
    graphs: HashMap<u64, Vec<Recorded>>,
    events: HashMap<u64, Instant>,
}

#[derive(Clone, Debug)]
struct Recorded {
    kernel: &'static Kernel,
    shape: Shape,
    /// The arguments, in words of the alignment that they need.
    args: Vec<Words>,
}

#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Words(std::mem::MaybeUninit<[u8; 64]>);

impl Emulated {
    /// A device that runs as `settings` say.
    pub fn new(settings: Settings) -> Self {
        let facts = Facts {
            name: format!("emulated (seed {}, mode {})", settings.seed, settings.mode),
            arch: settings.arch,
            multiprocessors: settings.multiprocessors,
            shared_bytes: match settings.arch.0 {
                80 => 163 << 10,
                90 | 100 => 227 << 10,
                _ => 99 << 10,
            },
            memory_bytes: 0,
            cache_bytes: 0,
            driver: 0,
        };
        Self { settings, facts, state: Mutex::default() }
    }

    /// (name, threads, bytes of arguments) of every kernel that was compiled in.
    pub fn compiled() -> Vec<(String, u32, usize)> {
        let one = |number| {
            let (mut name, mut threads, mut bytes) = (std::ptr::null(), 0, 0);
            // SAFETY: three places to write to; the name is a constant of the library.
            let found = unsafe { linked::emulate_kernel(number, &mut name, &mut threads, &mut bytes) } != 0;
            found.then(|| (unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(), threads, bytes))
        };
        (0..).map_while(one).collect()
    }

    /// Sizes and offsets of the argument structs as the C++ compiler sees them, in the order of [`crate::gpu::args::LAYOUT`].
    pub fn layout() -> Vec<usize> {
        let count = crate::gpu::args::LAYOUT.len();
        // SAFETY: the build writes both tables from one list.
        let table = unsafe { std::slice::from_raw_parts((&raw const linked::fair_moe_layout).cast::<u64>(), count) };
        table.iter().map(|&offset| offset as usize).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what a GPU refuses while it captures.
    fn not_capturing(&self, what: &str) -> Result<()> {
        match self.state().capturing.is_empty() {
            true => Ok(()),
            false => Err(Error::Refused(format!("{what} while launches are being captured"))),
        }
    }

    fn next(&self) -> u64 {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Why a GPU would not launch this.
    fn refuses(&self, kernel: &Kernel, shape: Shape) -> Option<String> {
        let Facts { arch, multiprocessors, shared_bytes, .. } = self.facts;
        let blocks: u64 = shape.grid.iter().map(|&blocks| blocks as u64).product();
        if shape.shared_bytes > shared_bytes {
            Some(format!("it takes {} bytes of shared memory, where a block has {shared_bytes}", shape.shared_bytes))
        } else if kernel.hopper && arch != Arch::HOPPER {
            Some(format!("it is for {} alone, and this is {arch}", Arch::HOPPER))
        } else if shape.cooperative && blocks > multiprocessors.into() {
            Some(format!("its {blocks} blocks have to run at the same time, on {multiprocessors} multiprocessors"))
        } else if shape.cluster != [1; 3] {
            Some(format!("a cluster of {:?} blocks is not emulated", shape.cluster))
        } else {
            None
        }
    }

    fn run(&self, kernel: &Kernel, shape: Shape, args: *const u8) -> Result<()> {
        if let Some(why) = self.refuses(kernel, shape) {
            return Err(Error::Refused(format!("{} cannot be launched: {why}", kernel.name)));
        }
        let name = CString::new(kernel.name).map_err(|_| Error::Refused("a kernel's name holds a 0".into()))?;
        let (s, library) = (&self.settings, Library::get()?);
        // SAFETY: `args` is the struct that the kernel takes; what its addresses hold is the caller's promise.
        let failed = unsafe {
            (library.configure)(s.workers, s.seed, s.mode as c_int, self.facts.shared_bytes, shape.cooperative as c_int);
            (library.launch)(name.as_ptr(), shape.grid.as_ptr(), shape.shared_bytes as usize, args.cast()) != 0
        };
        if !failed {
            return Ok(());
        }
        // SAFETY: the text stands until this thread's next launch.
        let why = unsafe { CStr::from_ptr((library.error)()) }.to_string_lossy().into_owned();
        Err(Error::Refused(why))
    }
}

impl Driver for Emulated {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn new_stream(&self) -> Result<Stream> {
        Ok(Stream(self.next()))
    }

    unsafe fn end_stream(&self, stream: Stream) {
        self.state().capturing.remove(&stream.0);
    }

    unsafe fn synchronise(&self, _: Stream) -> Result<()> {
        self.not_capturing("a wait")
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.not_capturing("an allocation")?;
        // SAFETY: no precondition.
        let at = unsafe { (Library::get()?.malloc)(bytes) } as Pointer;
        if at == 0 { Err(Error::Refused(format!("there is no room for {bytes} bytes"))) } else { Ok(at) }
    }

    unsafe fn free(&self, at: Pointer) -> Result<()> {
        // SAFETY: the library knows its buffers, and refuses an address that is none.
        match unsafe { (Library::get()?.free)(at as *mut c_void) } {
            0 => Ok(()),
            1 => Err(Error::Refused("a kernel wrote beside a buffer".into())),
            _ => Err(Error::Refused(format!("{at:#x} is no buffer"))),
        }
    }

    unsafe fn fill(&self, _: Stream, at: Pointer, value: u8, bytes: usize) -> Result<()> {
        self.not_capturing("a fill from the host")?;
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(at as *mut u8, value, bytes) };
        Ok(())
    }

    unsafe fn write(&self, _: Stream, to: Pointer, from: &[u8]) -> Result<()> {
        self.not_capturing("a copy from the host")?;
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn read(&self, _: Stream, from: Pointer, to: &mut [u8]) -> Result<()> {
        self.not_capturing("a copy to the host")?;
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap> {
        let (rank, element) = (tensor.rank()?, tensor.dtype.bytes() as u32);
        let Tiled { dims, strides, box_dims, .. } = *tensor;
        let mut map = TensorMap::default();
        // SAFETY: 128 bytes to write; as many numbers as the rank says are read. What it makes of them is the same in every library.
        let refused = unsafe {
            let (to, base) = ((&raw mut map).cast(), tensor.base as *const c_void);
            let (dims, strides, box_dims) = (dims.as_ptr(), strides.as_ptr(), box_dims.as_ptr());
            linked::emulate_tensor_map(to, element, rank, base, dims, strides, box_dims, tensor.swizzle as c_int) != 0
        };
        if refused { Err(tensor.refused()) } else { Ok(map) }
    }

    fn prepare(&self, _: &[&'static Kernel]) -> Result<()> {
        Ok(())
    }

    unsafe fn launch_raw(&self, stream: Stream, kernel: &'static Kernel, shape: Shape, args: *const u8) -> Result<()> {
        if let Some(recorded) = self.state().capturing.get_mut(&stream.0) {
            let mut words = vec![Words(std::mem::MaybeUninit::uninit()); kernel.args_bytes.div_ceil(64)];
            // SAFETY: the struct has `args_bytes` bytes, and as many are there.
            unsafe { std::ptr::copy_nonoverlapping(args, words.as_mut_ptr().cast::<u8>(), kernel.args_bytes) };
            recorded.push(Recorded { kernel, shape, args: words });
            return Ok(());
        }
        self.run(kernel, shape, args)
    }

    unsafe fn begin_capture(&self, stream: Stream) -> Result<()> {
        self.state().capturing.insert(stream.0, vec![]);
        Ok(())
    }

    unsafe fn end_capture(&self, stream: Stream) -> Result<Graph> {
        let graph = self.next();
        let mut state = self.state();
        let recorded = state.capturing.remove(&stream.0).ok_or_else(|| Error::Refused("this stream was not capturing".into()))?;
        state.graphs.insert(graph, recorded);
        Ok(Graph(graph))
    }

    fn graph_kernels(&self, graph: &Graph) -> Vec<&'static str> {
        self.state().graphs.get(&graph.0).into_iter().flatten().map(|recorded| recorded.kernel.name).collect()
    }

    unsafe fn replay(&self, _: Stream, graph: &Graph) -> Result<()> {
        let recorded = self.state().graphs.get(&graph.0).cloned();
        let recorded = recorded.ok_or_else(|| Error::Refused("there is no such graph".into()))?;
        recorded.iter().try_for_each(|r| self.run(r.kernel, r.shape, r.args.as_ptr().cast()))
    }

    fn end_graph(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0);
    }

    fn new_event(&self) -> Result<Event> {
        Ok(Event(self.next()))
    }

    unsafe fn record(&self, _: Stream, event: &Event) -> Result<()> {
        self.state().events.insert(event.0, Instant::now());
        Ok(())
    }

    unsafe fn elapsed_ms(&self, from: &Event, to: &Event) -> Result<f32> {
        let state = self.state();
        let at =
            |event: &Event| state.events.get(&event.0).ok_or_else(|| Error::Refused("an event that was not recorded".into()));
        Ok(at(to)?.saturating_duration_since(*at(from)?).as_secs_f32() * 1e3)
    }

    unsafe fn end_event(&self, event: Event) {
        self.state().events.remove(&event.0);
    }
}
