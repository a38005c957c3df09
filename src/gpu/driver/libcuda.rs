//! NVIDIA's driver library, opened before anything calls it: what cudarc would panic about is an error value here.

// SAFETY: the C interface of libcuda as its header `cuda.h` states it. Every function named in FUNCTIONS has been found before one of
// them is called.
#![allow(unsafe_code)]

use super::{Arch, Facts};
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};

// Clusters and launch attributes; cudarc takes its version from the variable CUDARC_CUDA_VERSION, else from nvcc.
const _: () = assert!(sys::CUDA_VERSION >= 12000, "cudarc's bindings must be those of CUDA 12.0 or newer");

/// The oldest driver that has all of FUNCTIONS.
const OLDEST: u32 = 12000;

/// All of libcuda that this crate calls through cudarc, which would panic where one is missing.
const FUNCTIONS: [&str; 39] = [
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxSynchronize",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
    "cuThreadExchangeStreamCaptureMode",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphDestroy",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuDriverGetVersion",
    "cuEventElapsedTime",
    "cuTensorMapEncodeTiled",
];

/// Calls a function of libcuda by its name. What it does with its arguments is the caller's to answer for.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::gpu::driver::libcuda::check(stringify!($function), cudarc::driver::sys::$function($($argument),*))
    };
}
pub(super) use call;

/// An error of libcuda's; its name is the constant's, so that nothing has to be asked of libcuda.
pub fn check(call: &str, code: CUresult) -> Result<()> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        _ => Err(Error::Cuda { call: call.into(), code: code as u32, name: format!("{code:?}") }),
    }
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;

/// The opened library, initialised. It stays loaded until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Libcuda {
    /// Its version, as 13000 for CUDA 13.0.
    pub version: u32,
    // Of this one cudarc knows a newer variant alone, or an older one alone, as its version is.
    elapsed_time: ElapsedTime,
}

fn unavailable(why: impl Into<String>) -> Error {
    Error::Unavailable { what: "CUDA".into(), why: why.into() }
}

impl Libcuda {
    /// Opens it, checks that it suffices, and initialises it.
    ///
    /// # Errors
    /// In one sentence: no driver, one that is too old, no GPU.
    pub fn open() -> Result<Self> {
        // The order in which cudarc tries them.
        let names = if cfg!(windows) { ["cuda.dll", "nvcuda.dll"] } else { ["libcuda.so", "libcuda.so.1"] };
        // SAFETY: libcuda does nothing when it is loaded.
        let library = names.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
        let library = library.ok_or_else(|| unavailable("there is no NVIDIA driver: its library libcuda is not found"))?;
        // SAFETY: the type that `cuda.h` gives it; errors are plain numbers there.
        let get_version = unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>("cuDriverGetVersion") };
        let get_version = get_version.map_err(|why| unavailable(format!("libcuda is not NVIDIA's driver: {why}")))?;
        let mut version = 0;
        // SAFETY: a place to write to; it needs no initialisation.
        let failed = unsafe { get_version(&mut version) } != 0;
        let version = if failed { 0 } else { version.max(0) as u32 };
        let named = format!("the NVIDIA driver, which is of CUDA {}.{},", version / 1000, version % 1000 / 10);
        if version < OLDEST {
            return Err(unavailable(format!("{named} is too old: it must be of CUDA 12.0 or newer")));
        }
        // SAFETY: looked up and not called.
        let lacks = |name: &&&str| unsafe { library.get::<*const c_void>(**name) }.is_err();
        if let Some(lacking) = FUNCTIONS.iter().find(lacks) {
            return Err(unavailable(format!("{named} lacks {lacking}")));
        }
        // SAFETY: its type in `cuda.h`.
        let elapsed_time = unsafe { library.get::<ElapsedTime>("cuEventElapsedTime") };
        let elapsed_time = *elapsed_time.map_err(|why| unavailable(why.to_string()))?;
        std::mem::forget(library);
        // SAFETY: no precondition.
        match unsafe { sys::cuInit(0) } {
            CUresult::CUDA_SUCCESS => Ok(Self { version, elapsed_time }),
            CUresult::CUDA_ERROR_NO_DEVICE => Err(unavailable("there is no GPU that the NVIDIA driver can use")),
            code => Err(unavailable(format!("the NVIDIA driver does not start: {code:?} ({})", code as u32))),
        }
    }

    /// How many GPUs there are.
    pub fn count(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: a place to write to.
        unsafe { call!(cuDeviceGetCount(&mut count)) }?;
        Ok(count.max(0) as usize)
    }

    /// The GPU of that number.
    pub fn device(&self, number: usize) -> Result<sys::CUdevice> {
        let count = self.count()?;
        if number >= count {
            let there = match count {
                0 => "there is no GPU".into(),
                1 => "there is one GPU, cuda:0".into(),
                _ => format!("there are {count} GPUs, counted from 0"),
            };
            return Err(Error::Unavailable { what: format!("cuda:{number}"), why: there });
        }
        let mut device = 0;
        // SAFETY: a place to write to, and one of the numbers that there are.
        unsafe { call!(cuDeviceGet(&mut device, number as c_int)) }?;
        Ok(device)
    }

    /// What a GPU is. Needs no context.
    pub fn facts(&self, device: sys::CUdevice) -> Result<Facts> {
        let attribute = |which: Attribute| {
            let mut value = 0;
            // SAFETY: a place to write to, and a device that was given.
            unsafe { call!(cuDeviceGetAttribute(&mut value, which, device)) }?;
            Result::Ok(value.max(0) as u32)
        };
        let mut name: [c_char; 256] = [0; 256];
        let mut memory_bytes = 0;
        // SAFETY: as many bytes as it is told, the last of them left 0, and a place to write to.
        unsafe {
            call!(cuDeviceGetName(name.as_mut_ptr(), 255, device))?;
            call!(cuDeviceTotalMem_v2(&mut memory_bytes, device))?;
        }
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(Facts {
            // SAFETY: it ends in a 0.
            name: unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
            arch: Arch(major * 10 + minor),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            memory_bytes: memory_bytes as u64,
            cache_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
            driver: self.version,
        })
    }

    /// Milliseconds between two events.
    ///
    /// # Safety
    /// Both stand, and both are recorded and reached.
    pub unsafe fn elapsed_ms(&self, from: sys::CUevent, to: sys::CUevent) -> Result<f32> {
        let mut ms = 0.0;
        // SAFETY: a place to write to; the rest is the caller's promise.
        check("cuEventElapsedTime", unsafe { (self.elapsed_time)(&mut ms, from, to) })?;
        Ok(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_that_is_called_is_looked_up_first() {
        let sources = [include_str!("libcuda.rs"), include_str!("cuda.rs"), include_str!("modules.rs")];
        let start = "cu";
        let mut called = 0;
        for source in sources {
            for after in source.split("call!(").chain(source.split("sys::")).filter(|after| after.starts_with(start)) {
                let name = after.split('(').next().unwrap_or_default();
                assert!(FUNCTIONS.contains(&name), "{name} is called, and not looked up");
                called += 1;
            }
        }
        assert!(called >= FUNCTIONS.len() - 2, "{called} calls");
    }

    #[test]
    fn without_a_gpu_there_is_one_sentence_and_no_panic() {
        match Libcuda::open().and_then(|libcuda| libcuda.device(4711)) {
            Ok(_) => panic!("there is no GPU of number 4711"),
            Err(why) => {
                let why = why.to_string();
                assert!(why.contains("cannot be used") && why.lines().count() == 1, "{why}");
            }
        }
    }

    #[test]
    fn an_error_names_the_call_and_the_code_without_asking_libcuda() {
        let why = check("cuMemAlloc_v2", CUresult::CUDA_ERROR_OUT_OF_MEMORY).unwrap_err().to_string();
        assert_eq!(why, "cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY (2)");
        assert!(check("cuInit", CUresult::CUDA_SUCCESS).is_ok());
    }
}
