//! The kernels on the CPU, compiled as C++ from the same sources. The seed chooses the order in which threads run, and the mode
//! when asynchronous copies land, so that a missing barrier shows. Device memory is host memory between pages that fault.
//!
//! Where launches may be dependent, each is held back until the stream is given the next or somebody waits for it: the first blocks of a
//! dependent one then run up to its wait before the launch ahead of it runs at all, so that a missing wait shows. What fails is told by
//! that call, and by every later one on the stream.

// SAFETY: the C interface of kernels/host: handles are checked there or here; addresses are the callers' promise, as `Driver` says.
#![allow(unsafe_code)]

mod library;

use super::{Arch, Driver, Event, Facts, Graph, Kernel, Pointer, Shape, Stream, Tiled};
use crate::error::{Error, Result};
use crate::gpu::args::TensorMap;
use library::{Begun, Library};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    lines: HashMap<u64, Arc<Mutex<Line>>>,
    /// What each capturing stream has recorded.
    capturing: HashMap<u64, Vec<Recorded>>,
    graphs: HashMap<u64, Vec<Recorded>>,
    events: HashMap<u64, Instant>,
}

/// What a stream was given and has not done.
#[derive(Debug, Default)]
struct Line {
    last: Option<Begun>,
    /// Why a launch failed: nothing runs on the stream after that.
    failed: Option<String>,
}

impl Line {
    fn end(&mut self) -> Result<()> {
        if let Some(Err(why)) = self.last.take().map(Begun::end) {
            self.failed = Some(why);
        }
        self.failed.clone().map_or(Ok(()), |why| Err(Error::Refused(why)))
    }
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

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        library::kernels()
    }

    /// Sizes and offsets of the argument structs as the C++ compiler sees them, in the order of [`crate::gpu::args::LAYOUT`].
    pub fn layout() -> Vec<usize> {
        library::layout()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn line(&self, stream: Stream) -> Arc<Mutex<Line>> {
        self.state().lines.entry(stream.0).or_default().clone()
    }

    /// Runs what a stream was given to its end.
    fn end(&self, stream: Stream) -> Result<()> {
        lock(&self.line(stream)).end()
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
        } else if shape.cooperative && shape.dependent {
            Some("a cooperative launch cannot be dependent".into())
        } else if shape.cluster != [1; 3] {
            Some(format!("a cluster of {:?} blocks is not emulated", shape.cluster))
        } else {
            None
        }
    }

    fn run(&self, stream: Stream, kernel: &Kernel, shape: Shape, args: *const u8) -> Result<()> {
        if let Some(why) = self.refuses(kernel, shape) {
            return Err(Error::Refused(format!("{} cannot be launched: {why}", kernel.name)));
        }
        let overlaps = self.facts.arch.0 >= 90;
        let line = self.line(stream);
        let mut line = lock(&line);
        let shape = Shape { dependent: shape.dependent && overlaps, ..shape };
        // SAFETY: `args` is the struct that the kernel takes; what its addresses hold is the caller's promise.
        let next = unsafe { Library::get()?.begin(&self.settings, self.facts.shared_bytes, kernel, shape, args) };
        line.end()?;
        line.last = Some(next.map_err(Error::Refused)?);
        if overlaps { Ok(()) } else { line.end() }
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
        // There is nobody to tell of an error.
        let _ = self.end(stream);
        let mut state = self.state();
        state.capturing.remove(&stream.0);
        state.lines.remove(&stream.0);
    }

    unsafe fn synchronise(&self, stream: Stream) -> Result<()> {
        self.not_capturing("a wait")?;
        self.end(stream)
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.not_capturing("an allocation")?;
        // SAFETY: no precondition.
        let at = unsafe { (Library::get()?.malloc)(bytes) } as Pointer;
        if at == 0 { Err(Error::Refused(format!("there is no room for {bytes} bytes"))) } else { Ok(at) }
    }

    unsafe fn free(&self, at: Pointer) -> Result<()> {
        let lines: Vec<_> = self.state().lines.values().cloned().collect();
        // An error is told by the stream's next call.
        lines.iter().for_each(|line| drop(lock(line).end()));
        // SAFETY: the library knows its buffers, and refuses an address that is none.
        match unsafe { (Library::get()?.free)(at as *mut c_void) } {
            0 => Ok(()),
            1 => Err(Error::Refused("a kernel wrote beside a buffer".into())),
            _ => Err(Error::Refused(format!("{at:#x} is no buffer"))),
        }
    }

    unsafe fn fill(&self, stream: Stream, at: Pointer, value: u8, bytes: usize) -> Result<()> {
        self.not_capturing("a fill from the host")?;
        self.end(stream)?;
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(at as *mut u8, value, bytes) };
        Ok(())
    }

    unsafe fn write(&self, stream: Stream, to: Pointer, from: &[u8]) -> Result<()> {
        self.not_capturing("a copy from the host")?;
        self.end(stream)?;
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn read(&self, stream: Stream, from: Pointer, to: &mut [u8]) -> Result<()> {
        self.not_capturing("a copy to the host")?;
        self.end(stream)?;
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
            library::linked::emulate_tensor_map(to, element, rank, base, dims, strides, box_dims, tensor.swizzle as c_int) != 0
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
        self.run(stream, kernel, shape, args)
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

    unsafe fn replay(&self, stream: Stream, graph: &Graph) -> Result<()> {
        let recorded = self.state().graphs.get(&graph.0).cloned();
        let recorded = recorded.ok_or_else(|| Error::Refused("there is no such graph".into()))?;
        // Within a graph launches overlap, but a graph does not overlap with what is around it.
        self.end(stream)?;
        recorded.iter().try_for_each(|r| self.run(stream, r.kernel, r.shape, r.args.as_ptr().cast()))?;
        self.end(stream)
    }

    fn end_graph(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0);
    }

    fn new_event(&self) -> Result<Event> {
        Ok(Event(self.next()))
    }

    unsafe fn record(&self, stream: Stream, event: &Event) -> Result<()> {
        self.end(stream)?;
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
