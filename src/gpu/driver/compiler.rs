//! Kernels to images: from the cache, else by NVRTC, several at the same time.

use super::Arch;
use super::cache::Cache;
use super::locate;
use super::nvrtc::{Image, Nvrtc};
use super::program::Program;
use crate::error::{Error, Result};
use crate::gpu::kernels::Kernel;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What NVRTC and the cache are here.
#[derive(Debug)]
pub struct Compiler {
    /// Found, or why not.
    pub nvrtc: std::result::Result<Nvrtc, String>,
    /// None when it is off.
    pub cache: Option<Cache>,
    /// The newest major version of CUDA whose code the driver runs.
    pub newest_major: u32,
}

impl Compiler {
    /// What this machine has for a driver of that version (13000 for 13.0), or for none.
    pub fn find(driver: Option<u32>) -> Self {
        let nvrtc = locate::find(driver).map_err(|why| why.to_string());
        Self { nvrtc, cache: Cache::of_user(), newest_major: driver.map_or(u32::MAX, |driver| driver / 1000) }
    }

    /// The kernel, compiled. With an NVRTC at hand, what that one makes; with none, what any other has left in the cache.
    ///
    /// # Errors
    /// That it is in no cache and there is no NVRTC, or what NVRTC says of it.
    pub fn image(&self, kernel: &Kernel, arch: Arch) -> Result<Image> {
        let program = Program::of(kernel);
        let key = program.key(arch);
        let cached = self.cache.as_ref().and_then(|cache| match &self.nvrtc {
            Ok(nvrtc) => cache.get(&key, nvrtc.version),
            Err(_) => cache.newest(&key, self.newest_major),
        });
        if let Some(image) = cached {
            return Ok(image);
        }
        let nvrtc = self.nvrtc.as_ref().map_err(|why| {
            let what = format!("the kernel {}, which has to be compiled for {arch},", kernel.name);
            Error::Unavailable { what, why: why.clone() }
        })?;
        let image = nvrtc.compile(&program, arch)?;
        if let Some(cache) = &self.cache {
            // A cache that cannot be written to costs time, and nothing else.
            let _ = cache.put(&key, &image);
        }
        Ok(image)
    }

    /// All of them, in their order, on as many threads as the machine has.
    ///
    /// # Errors
    /// The first kernel's that has one.
    pub fn images(&self, kernels: &[&Kernel], arch: Arch) -> Result<Vec<Image>> {
        let workers = thread::available_parallelism().map_or(1, usize::from).min(kernels.len());
        let next = AtomicUsize::new(0);
        let images: Vec<Mutex<Option<Result<Image>>>> = kernels.iter().map(|_| Mutex::default()).collect();
        let work = || {
            while let Some((kernel, slot)) = kernels.iter().zip(&images).nth(next.fetch_add(1, Ordering::Relaxed)) {
                let image = self.image(kernel, arch);
                *slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(image);
            }
        };
        thread::scope(|scope| {
            for _ in 1..workers {
                // With fewer threads it takes longer; this one works in any case.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let image = |slot: Mutex<Option<Result<Image>>>| slot.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        images.into_iter().filter_map(image).collect()
    }
}
