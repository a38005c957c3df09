//! A GPU, by its primary context: the one that PyTorch, candle and every other user of the runtime shares.

// SAFETY: the driver API. Handles were given by it and are given back once; addresses, streams and what lies behind them are the
// callers' promise, as `Driver` says. The context is bound around every call that needs one.
#![allow(unsafe_code)]

use super::compiler::Compiler;
use super::libcuda::{Libcuda, call, check};
use super::modules::{Modules, Relaxed};
use super::{Arch, Driver, Event, Facts, Graph, Kernel, Pointer, Shape, Stream, Tiled};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::args::TensorMap;
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUlaunchAttributeID as LaunchAttribute, CUstreamCaptureMode};
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};

/// The oldest architecture that the kernels are written for.
const OLDEST: Arch = Arch(80);

/// A GPU. Its kernels are loaded once, when they are first needed.
#[derive(Debug)]
pub struct Cuda {
    libcuda: Libcuda,
    facts: Facts,
    device: sys::CUdevice,
    /// A `CUcontext`. Handles are kept as numbers, as in `Stream`, so that they may go from thread to thread, as libcuda allows.
    context: u64,
    modules: Modules,
    recording: Mutex<Recording>,
}

#[derive(Debug, Default)]
struct Recording {
    /// Of each capturing stream: who began, and what has been launched since.
    capturing: HashMap<u64, (ThreadId, Vec<&'static str>)>,
    graphs: HashMap<u64, Vec<&'static str>>,
}

/// The context is this thread's current one until this goes; then it is again which it was.
struct Bound(PhantomData<*const ()>);

impl Drop for Bound {
    fn drop(&mut self) {
        let mut ours = null_mut();
        // SAFETY: what `bind` pushed on this very thread.
        let _ = unsafe { call!(cuCtxPopCurrent_v2(&mut ours)) };
    }
}

impl Cuda {
    /// What GPUs there are, whether or not the kernels run on them.
    ///
    /// # Errors
    /// In one sentence, why there are none.
    pub fn devices() -> Result<Vec<Facts>> {
        let libcuda = Libcuda::open()?;
        (0..libcuda.count()?).map(|number| libcuda.facts(libcuda.device(number)?)).collect()
    }

    /// The GPU of that number.
    ///
    /// # Errors
    /// In one sentence: no driver, one that is too old, no such GPU, one that is too old.
    pub fn new(number: usize) -> Result<Self> {
        let libcuda = Libcuda::open()?;
        let device = libcuda.device(number)?;
        let facts = libcuda.facts(device)?;
        if facts.arch.0 < OLDEST.0 {
            let what = format!("cuda:{number} ({}, {})", facts.name, facts.arch);
            return Err(Error::Unavailable { what, why: format!("the kernels are for {OLDEST} and newer") });
        }
        let modules = Modules::new(Compiler::find(Some(libcuda.version)), facts.arch);
        let mut context = null_mut();
        // SAFETY: a place to write to, and a device that was given. It is given back when this value goes.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut context, device)) }?;
        let context = context as u64;
        Ok(Self { libcuda, facts, device, context, modules, recording: Mutex::default() })
    }

    /// The GPU of that number: the same one as long as anybody has it, so that kernels are compiled and loaded once for all.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn shared(number: usize) -> Result<Arc<Self>> {
        static SHARED: Mutex<BTreeMap<usize, Weak<Cuda>>> = Mutex::new(BTreeMap::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cuda) = shared.get(&number).and_then(Weak::upgrade) {
            return Ok(cuda);
        }
        let cuda = Arc::new(Self::new(number)?);
        shared.insert(number, Arc::downgrade(&cuda));
        Ok(cuda)
    }

    /// The `CUcontext` that everything here is in.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// Where kernels come from.
    pub fn compiler(&self) -> &Compiler {
        &self.modules.compiler
    }

    fn bind(&self) -> Result<Bound> {
        // SAFETY: retained until this value goes.
        unsafe { call!(cuCtxPushCurrent_v2(self.context as sys::CUcontext)) }?;
        Ok(Bound(PhantomData))
    }

    fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what would break off a capture: by the thread that began one, or on a stream that captures.
    fn not_capturing(&self, what: &str, stream: Option<Stream>) -> Result<()> {
        let recording = self.recording();
        let captures = |(at, (by, _)): (&u64, &(ThreadId, _))| *by == thread::current().id() || stream == Some(Stream(*at));
        match recording.capturing.iter().any(captures) {
            true => Err(Error::Refused(format!("{what} while launches are being captured"))),
            false => Ok(()),
        }
    }
}

/// How a launch differs from a plain one.
fn attributes(shape: Shape, facts: &Facts) -> Vec<sys::CUlaunchAttribute> {
    let plain = || sys::CUlaunchAttributeValue { pad: [0; 64] };
    let mut list = vec![];
    let mut add = |id, value| list.push(sys::CUlaunchAttribute { id, pad: [0; 4], value });
    if shape.cooperative {
        let mut value = plain();
        value.cooperative = 1;
        add(LaunchAttribute::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, value);
    }
    if shape.cluster != [1; 3] {
        let [x, y, z] = shape.cluster;
        let mut value = plain();
        value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
        add(LaunchAttribute::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value);
    }
    // Before 9.0 launches simply follow one another. Before CUDA 12.3 a stream that captures, be it for somebody else's graph, does not
    // take such a launch.
    if shape.dependent && facts.arch.0 >= 90 && facts.driver >= 12030 {
        let mut value = plain();
        value.programmaticStreamSerializationAllowed = 1;
        add(LaunchAttribute::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, value);
    }
    list
}

impl Driver for Cuda {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn new_stream(&self) -> Result<Stream> {
        let _bound = self.bind()?;
        let mut stream = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place to write to.
        unsafe { call!(cuStreamCreate(&mut stream, flags)) }?;
        Ok(Stream(stream as u64))
    }

    unsafe fn end_stream(&self, stream: Stream) {
        self.recording().capturing.remove(&stream.0);
        if let Ok(_bound) = self.bind() {
            // SAFETY: the caller's promise. libcuda lets the work on it end first.
            let _ = unsafe { call!(cuStreamDestroy_v2(stream.0 as sys::CUstream)) };
        }
    }

    unsafe fn synchronise(&self, stream: Stream) -> Result<()> {
        self.not_capturing("a wait", Some(stream))?;
        let _bound = self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { call!(cuStreamSynchronize(stream.0 as sys::CUstream)) }
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.not_capturing("an allocation", None)?;
        let _bound = self.bind()?;
        let mut at = 0;
        // SAFETY: a place to write to.
        unsafe { call!(cuMemAlloc_v2(&mut at, bytes)) }?;
        Ok(at)
    }

    unsafe fn free(&self, at: Pointer) -> Result<()> {
        let _bound = self.bind()?;
        let _relaxed = Relaxed::new()?;
        // SAFETY: the caller's promise. libcuda lets the work that is under way end first.
        unsafe { call!(cuMemFree_v2(at)) }
    }

    unsafe fn fill(&self, stream: Stream, at: Pointer, value: u8, bytes: usize) -> Result<()> {
        self.not_capturing("a fill from the host", Some(stream))?;
        let _bound = self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { call!(cuMemsetD8Async(at, value, bytes, stream.0 as sys::CUstream)) }
    }

    unsafe fn write(&self, stream: Stream, to: Pointer, from: &[u8]) -> Result<()> {
        self.not_capturing("a copy from the host", Some(stream))?;
        let _bound = self.bind()?;
        let stream = stream.0 as sys::CUstream;
        // SAFETY: the caller's promise for `to`. The slice may be pinned memory, which would be read later: hence the wait.
        unsafe {
            call!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream))?;
            call!(cuStreamSynchronize(stream))
        }
    }

    unsafe fn read(&self, stream: Stream, from: Pointer, to: &mut [u8]) -> Result<()> {
        self.not_capturing("a copy to the host", Some(stream))?;
        let _bound = self.bind()?;
        let stream = stream.0 as sys::CUstream;
        // SAFETY: the caller's promise for `from`; the slice is borrowed until the copy has ended.
        unsafe {
            call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream))?;
            call!(cuStreamSynchronize(stream))
        }
    }

    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap> {
        let rank = tensor.rank()?;
        let element = match tensor.dtype {
            DType::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F64 => return Err(tensor.refused()),
        };
        let swizzle = match tensor.swizzle {
            true => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            false => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        };
        let Tiled { base, dims, strides, box_dims, .. } = *tensor;
        let _bound = self.bind()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: a place to write to; as many numbers as the rank says are read. The tensor's memory is not touched.
        unsafe {
            call!(cuTensorMapEncodeTiled(
                &mut map,
                element,
                rank,
                base as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                box_dims.as_ptr(),
                [1; 5].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            ))
        }?;
        Ok(TensorMap(map.opaque))
    }

    fn prepare(&self, kernels: &[&'static Kernel]) -> Result<()> {
        let _bound = self.bind()?;
        self.modules.load(kernels)
    }

    unsafe fn launch_raw(&self, stream: Stream, kernel: &'static Kernel, shape: Shape, args: *const u8) -> Result<()> {
        if shape.shared_bytes > self.facts.shared_bytes {
            let why = format!("{} bytes of shared memory, where a block has {}", shape.shared_bytes, self.facts.shared_bytes);
            return Err(Error::Refused(format!("{} cannot be launched with {why}", kernel.name)));
        }
        let _bound = self.bind()?;
        let function = self.modules.function(kernel, shape.shared_bytes)?;
        if shape.cluster.iter().product::<u32>() > 8 {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            // SAFETY: a function of a module that stays loaded.
            unsafe { call!(cuFuncSetAttribute(function, attribute, 1)) }?;
        }
        let mut attributes = attributes(shape, &self.facts);
        let config = sys::CUlaunchConfig {
            gridDimX: shape.grid[0],
            gridDimY: shape.grid[1],
            gridDimZ: shape.grid[2],
            blockDimX: kernel.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared_bytes,
            hStream: stream.0 as sys::CUstream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let mut parameter = args.cast_mut().cast::<c_void>();
        // SAFETY: one parameter, the struct that the kernel takes, which libcuda copies before it returns; the rest is the caller's
        // promise.
        let code = unsafe { sys::cuLaunchKernelEx(&config, function, &mut parameter, null_mut()) };
        check(&format!("the launch of {}", kernel.name), code)?;
        if let Some((_, names)) = self.recording().capturing.get_mut(&stream.0) {
            names.push(kernel.name);
        }
        Ok(())
    }

    unsafe fn begin_capture(&self, stream: Stream) -> Result<()> {
        let _bound = self.bind()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the caller's promise.
        unsafe { call!(cuStreamBeginCapture_v2(stream.0 as sys::CUstream, mode)) }?;
        self.recording().capturing.insert(stream.0, (thread::current().id(), vec![]));
        Ok(())
    }

    unsafe fn end_capture(&self, stream: Stream) -> Result<Graph> {
        let _bound = self.bind()?;
        let recorded = self.recording().capturing.remove(&stream.0);
        let (_, names) = recorded.ok_or_else(|| Error::Refused("this stream was not capturing".into()))?;
        let (mut graph, mut runs) = (null_mut(), null_mut());
        // SAFETY: places to write to; the graph is done with when it has been made ready to run.
        unsafe {
            call!(cuStreamEndCapture(stream.0 as sys::CUstream, &mut graph))?;
            let made = call!(cuGraphInstantiateWithFlags(&mut runs, graph, 0));
            let _ = call!(cuGraphDestroy(graph));
            made?;
        }
        self.recording().graphs.insert(runs as u64, names);
        Ok(Graph(runs as u64))
    }

    fn graph_kernels(&self, graph: &Graph) -> Vec<&'static str> {
        self.recording().graphs.get(&graph.0).cloned().unwrap_or_default()
    }

    unsafe fn replay(&self, stream: Stream, graph: &Graph) -> Result<()> {
        let _bound = self.bind()?;
        if !self.recording().graphs.contains_key(&graph.0) {
            return Err(Error::Refused("there is no such graph".into()));
        }
        // SAFETY: a graph that stands; what its launches read and write is the caller's promise.
        unsafe { call!(cuGraphLaunch(graph.0 as sys::CUgraphExec, stream.0 as sys::CUstream)) }
    }

    fn end_graph(&self, graph: Graph) {
        if let (Ok(_bound), Some(_)) = (self.bind(), self.recording().graphs.remove(&graph.0)) {
            // SAFETY: made in `end_capture`, and given back once. libcuda lets it run to its end first.
            let _ = unsafe { call!(cuGraphExecDestroy(graph.0 as sys::CUgraphExec)) };
        }
    }

    fn new_event(&self) -> Result<Event> {
        let _bound = self.bind()?;
        let mut event = null_mut();
        // The default times, which is what events are for here.
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: a place to write to.
        unsafe { call!(cuEventCreate(&mut event, flags)) }?;
        Ok(Event(event as u64))
    }

    unsafe fn record(&self, stream: Stream, event: &Event) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { call!(cuEventRecord(event.0 as sys::CUevent, stream.0 as sys::CUstream)) }
    }

    unsafe fn elapsed_ms(&self, from: &Event, to: &Event) -> Result<f32> {
        self.not_capturing("a wait", None)?;
        let _bound = self.bind()?;
        let (from, to) = (from.0 as sys::CUevent, to.0 as sys::CUevent);
        // SAFETY: the caller's promise that they stand; one that was never recorded is an error of libcuda's.
        unsafe {
            call!(cuEventSynchronize(from))?;
            call!(cuEventSynchronize(to))?;
            self.libcuda.elapsed_ms(from, to)
        }
    }

    unsafe fn end_event(&self, event: Event) {
        if let Ok(_bound) = self.bind() {
            // SAFETY: the caller's promise, and given back once.
            let _ = unsafe { call!(cuEventDestroy_v2(event.0 as sys::CUevent)) };
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if let Ok(_bound) = self.bind() {
            // SAFETY: all work has ended before the kernels that it runs go; graphs and modules are known to nobody else. There is
            // nobody to tell of an error.
            unsafe {
                let _ = call!(cuCtxSynchronize());
                for &graph in self.recording().graphs.keys() {
                    let _ = call!(cuGraphExecDestroy(graph as sys::CUgraphExec));
                }
                self.modules.unload();
            }
        }
        // SAFETY: retained once, released once.
        let _ = unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.device)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_launch_has_no_attributes_and_others_have_theirs() {
        let facts = |arch, driver| Facts {
            name: String::new(),
            arch,
            multiprocessors: 1,
            shared_bytes: 0,
            memory_bytes: 0,
            cache_bytes: 0,
            driver,
        };
        let (hopper, older) = (facts(Arch::HOPPER, 12030), facts(Arch::HOPPER, 12020));
        let names = |shape, facts: &Facts| -> Vec<_> { attributes(shape, facts).iter().map(|attribute| attribute.id).collect() };
        let plain = Shape { dependent: false, ..Shape::blocks(7).shared(1000) };
        assert!(names(plain, &hopper).is_empty());
        use LaunchAttribute::*;
        let overlapping = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        assert_eq!(names(Shape::blocks(7), &hopper), [overlapping]);
        assert!(names(Shape::blocks(7), &older).is_empty(), "a stream that captures would refuse it");
        assert!(names(Shape::blocks(7), &facts(Arch(80), 13000)).is_empty(), "sm_80 knows no overlap");
        let together = Shape { cluster: [2, 1, 1], ..Shape::blocks(7).cooperative() };
        assert_eq!(names(together, &hopper), [CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION]);
        // SAFETY: the member that was written.
        let cluster = unsafe { attributes(together, &hopper)[1].value.clusterDim };
        assert_eq!((cluster.x, cluster.y, cluster.z), (2, 1, 1));
    }
}
