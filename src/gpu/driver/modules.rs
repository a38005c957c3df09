//! The kernels in a context: compiled and loaded once, when they are first needed.

// SAFETY: the driver API, with the context bound. A module that is loaded here stays so until the context's owner ends them all.
#![allow(unsafe_code)]

use super::compiler::Compiler;
use super::libcuda::call;
use super::{Arch, Kernel};
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUstreamCaptureMode};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is loaded into one context, and where it comes from.
#[derive(Debug)]
pub struct Modules {
    /// Where kernels come from.
    pub compiler: Compiler,
    arch: Arch,
    loaded: Mutex<HashMap<&'static str, Loaded>>,
}

/// A kernel in the context.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    module: u64,
    function: u64,
    /// The most dynamic shared memory that it has been allowed so far.
    shared_bytes: u32,
}

impl Modules {
    /// Nothing yet, for a context of a GPU of `arch`.
    pub fn new(compiler: Compiler, arch: Arch) -> Self {
        Self { compiler, arch, loaded: Mutex::default() }
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<&'static str, Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles what is not loaded yet, all at the same time, and loads it. The context is bound.
    pub fn load(&self, kernels: &[&'static Kernel]) -> Result<()> {
        let there: Vec<&str> = self.loaded().keys().copied().collect();
        let missing: Vec<&'static Kernel> = kernels.iter().copied().filter(|kernel| !there.contains(&kernel.name)).collect();
        if let Some(foreign) = missing.iter().find(|kernel| kernel.hopper && self.arch != Arch::HOPPER) {
            let (name, hopper, here) = (foreign.name, Arch::HOPPER, self.arch);
            return Err(Error::Refused(format!("{name} is for {hopper} alone, and this GPU is {here}")));
        }
        let images = self.compiler.images(&missing, self.arch)?;
        let _relaxed = Relaxed::new()?;
        for (kernel, image) in missing.iter().zip(&images) {
            let new = load_one(kernel, &image.cubin)?;
            // Another thread may have been here in the meantime: what it loaded may be in use.
            let spare = match self.loaded().entry(kernel.name) {
                Entry::Occupied(_) => Some(new.module),
                Entry::Vacant(place) => {
                    place.insert(new);
                    None
                }
            };
            if let Some(module) = spare {
                // SAFETY: loaded above, and known to nobody else.
                unsafe { call!(cuModuleUnload(module as sys::CUmodule)) }?;
            }
        }
        Ok(())
    }

    /// The kernel, loaded, and allowed that much dynamic shared memory. The context is bound.
    pub fn function(&self, kernel: &'static Kernel, shared_bytes: u32) -> Result<sys::CUfunction> {
        if !self.loaded().contains_key(kernel.name) {
            self.load(&[kernel])?;
        }
        let mut all = self.loaded();
        let loaded = all.get_mut(kernel.name).ok_or_else(|| Error::Refused(format!("{} is not loaded", kernel.name)))?;
        let function = loaded.function as sys::CUfunction;
        if shared_bytes > loaded.shared_bytes {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a module that stays loaded.
            unsafe { call!(cuFuncSetAttribute(function, attribute, shared_bytes as i32)) }?;
            loaded.shared_bytes = shared_bytes;
        }
        Ok(function)
    }

    /// Takes every kernel out of the context, which is bound.
    ///
    /// # Safety
    /// None of them runs any more, nor will.
    pub unsafe fn unload(&self) {
        for (_, loaded) in self.loaded().drain() {
            // SAFETY: loaded once, unloaded once. There is nobody to tell of an error.
            let _ = unsafe { call!(cuModuleUnload(loaded.module as sys::CUmodule)) };
        }
    }
}

fn load_one(kernel: &Kernel, cubin: &[u8]) -> Result<Loaded> {
    let name = CString::new(kernel.name).map_err(|_| Error::Refused("a kernel's name holds a 0".into()))?;
    let (mut module, mut function, mut threads) = (null_mut(), null_mut(), 0);
    // SAFETY: the cubin that a compiler made, whole, as the cache's checksum says; places to write to.
    unsafe { call!(cuModuleLoadData(&mut module, cubin.as_ptr().cast())) }?;
    // SAFETY: the module just loaded, and places to write to. To ask how many threads it can have also loads the kernel itself,
    // which libcuda may otherwise put off until its first launch.
    let found = unsafe {
        call!(cuModuleGetFunction(&mut function, module, name.as_ptr()))
            .and_then(|()| call!(cuFuncGetAttribute(&mut threads, Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function)))
    };
    let fits = found.and_then(|()| match threads.max(0) as u32 >= kernel.threads {
        true => Ok(()),
        false => {
            Err(Error::Refused(format!("{} needs {} threads, and this GPU gives it {threads}", kernel.name, kernel.threads)))
        }
    });
    if let Err(why) = fits {
        // SAFETY: loaded above, and known to nobody else.
        let _ = unsafe { call!(cuModuleUnload(module)) };
        return Err(why);
    }
    Ok(Loaded { module: module as u64, function: function as u64, shared_bytes: 0 })
}

/// Until this goes, this thread may do while it captures what does not touch the capturing streams, such as load a module.
pub struct Relaxed(CUstreamCaptureMode, PhantomData<*const ()>);

impl Relaxed {
    /// From here on.
    pub fn new() -> Result<Self> {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a place to read from and write to.
        unsafe { call!(cuThreadExchangeStreamCaptureMode(&mut mode)) }?;
        Ok(Self(mode, PhantomData))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        // SAFETY: the mode that this thread had.
        let _ = unsafe { call!(cuThreadExchangeStreamCaptureMode(&mut self.0)) };
    }
}
