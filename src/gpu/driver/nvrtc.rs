//! NVRTC, NVIDIA's compiler as a library: needs neither a GPU nor a toolkit. Its functions are looked up here, so that one that lacks
//! is an error and no panic.

// SAFETY: the C interface of NVRTC as its header `nvrtc.h` states it, unchanged since version 11.1. Every pointer handed over points
// to what outlives the call.
#![allow(unsafe_code)]

use super::Arch;
use super::program::Program;
use crate::error::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// NVRTC's version, as 13.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// That of CUDA; a driver runs what a compiler of its own or an older one gives.
    pub major: u32,
    /// Counted within it.
    pub minor: u32,
}

impl Version {
    /// The oldest that the kernels are written for.
    pub const OLDEST: Version = Version { major: 12, minor: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The instruction that some kernels for sm_90a are made for.
pub const WGMMA: &str = "wgmma.mma_async";

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// What a GPU runs.
    pub cubin: Vec<u8>,
    /// What the compiler said: warnings, registers, spills; and [`WGMMA`] with how many there are in the PTX, if any.
    pub log: String,
    /// How long the compiler took.
    pub seconds: f64,
    /// Which one it was.
    pub nvrtc: Version,
}

type Handle = *mut c_void;
type Strings = *const *const c_char;

#[derive(Clone, Copy)]
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    supported_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    supported: unsafe extern "C" fn(*mut c_int) -> c_int,
    create: unsafe extern "C" fn(*mut Handle, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, Strings) -> c_int,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
}

/// A loaded NVRTC. It stays loaded until the process ends.
#[derive(Clone)]
pub struct Nvrtc {
    /// The file, or the name that the system's loader found it by.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    functions: Functions,
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVRTC {} at {}", self.version, self.path.display())
    }
}

impl Nvrtc {
    /// Loads the library of that path, or of that name by the system's loader.
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: NVRTC does nothing when it is loaded; whose file it is, is the caller's choice.
        let library = unsafe { Library::new(path) }.map_err(|why| unavailable(path, why))?;
        // SAFETY: the types of `nvrtc.h`.
        let functions = unsafe { look_up(&library) }.map_err(|why| unavailable(path, why))?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two places to write to.
        unsafe { (functions.version)(&mut major, &mut minor) };
        let version = Version { major: major.max(0) as u32, minor: minor.max(0) as u32 };
        // It may have started threads and handlers of its own: it must not go away under them.
        std::mem::forget(library);
        match version >= Version::OLDEST {
            true => Ok(Self { path: path.to_owned(), version, functions }),
            false => {
                Err(unavailable(path, format!("it is version {version}, and {} is the oldest that will do", Version::OLDEST)))
            }
        }
    }

    /// The architectures that it compiles for, as 80, 90, ...; those of the suffix `a` are not listed apart.
    pub fn supported(&self) -> Vec<u32> {
        let mut count = 0;
        // SAFETY: a place to write to, then as many as it said.
        let failed = unsafe { (self.functions.supported_count)(&mut count) } != 0;
        let mut archs: Vec<c_int> = vec![0; count.max(0) as usize];
        if failed || archs.is_empty() || unsafe { (self.functions.supported)(archs.as_mut_ptr()) } != 0 {
            return vec![];
        }
        archs.into_iter().map(|arch| arch.max(0) as u32).collect()
    }

    /// Compiles a program. It may be called from several threads at once.
    pub fn compile(&self, program: &Program, arch: Arch) -> Result<Image> {
        let supported = self.supported();
        if !supported.is_empty() && !supported.contains(&arch.0) {
            let list: Vec<_> = supported.iter().map(|arch| format!("sm_{arch}")).collect();
            return Err(unavailable(&self.path, format!("version {} knows no {arch}, but {}", self.version, list.join(", "))));
        }
        let text =
            |text: &str| CString::new(text).map_err(|_| Error::Refused(format!("the source of {} holds a 0", program.name)));
        let texts = |all: Vec<&str>| all.into_iter().map(text).collect::<Result<Vec<_>>>();
        let (name, source) = (text(&program.name)?, text(&program.text)?);
        let names = texts(program.headers.iter().map(|header| header.0).collect())?;
        let headers = texts(program.headers.iter().map(|header| header.1).collect())?;
        let options = texts(Program::options(arch).iter().map(String::as_str).collect())?;
        let [names, headers, options] =
            [&names, &headers, &options].map(|all| all.iter().map(|one| one.as_ptr()).collect::<Vec<_>>());

        let start = Instant::now();
        let f = &self.functions;
        let mut made = Made { handle: std::ptr::null_mut(), destroy: f.destroy };
        let count = names.len() as c_int;
        // SAFETY: as many headers as names; all of these strings stand until the end of this function.
        let code =
            unsafe { (f.create)(&mut made.handle, source.as_ptr(), name.as_ptr(), count, headers.as_ptr(), names.as_ptr()) };
        self.check("nvrtcCreateProgram", code)?;
        // SAFETY: a program that was made, and as many options as it is told.
        let code = unsafe { (f.compile)(made.handle, options.len() as c_int, options.as_ptr()) };
        let log = self.bytes(&made, f.log_size, f.log)?;
        let mut log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if code != 0 {
            let log = if log.trim().is_empty() { self.name(code) } else { log };
            return Err(Error::Compile { program: program.name.clone(), arch: arch.to_string(), log });
        }
        let cubin = self.bytes(&made, f.cubin_size, f.cubin)?;
        let ptx = self.bytes(&made, f.ptx_size, f.ptx)?;
        match String::from_utf8_lossy(&ptx).matches(WGMMA).count() {
            0 => {}
            count => log += &format!("\n{count} {WGMMA}\n"),
        }
        Ok(Image { cubin, log, seconds: start.elapsed().as_secs_f64(), nvrtc: self.version })
    }

    /// What a program gave: first how much it is, then the bytes.
    fn bytes(
        &self,
        made: &Made,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>> {
        let mut count = 0;
        // SAFETY: a program that was compiled, and a place to write to.
        self.check("NVRTC, asked how much it gave,", unsafe { size(made.handle, &mut count) })?;
        let mut bytes = vec![0u8; count];
        // SAFETY: as many bytes as it said.
        self.check("NVRTC, asked for what it gave,", unsafe { get(made.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(Error::Refused(format!("{call} failed: {}", self.name(code)))) }
    }

    fn name(&self, code: c_int) -> String {
        // SAFETY: it gives a constant for any number.
        let name = unsafe { (self.functions.error_string)(code) };
        // SAFETY: a constant that ends in a 0, if any.
        if name.is_null() { format!("error {code}") } else { unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned() }
    }
}

/// A program of NVRTC's, given back at the end.
struct Made {
    handle: Handle,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made once, given back once.
            unsafe { (self.destroy)(&mut self.handle) };
        }
    }
}

/// # Safety
/// `library` is an NVRTC.
unsafe fn look_up(library: &Library) -> std::result::Result<Functions, libloading::Error> {
    macro_rules! get {
        // SAFETY: the field's type is that of the function.
        ($name:literal) => {
            *unsafe { library.get($name) }?
        };
    }
    Ok(Functions {
        version: get!("nvrtcVersion"),
        error_string: get!("nvrtcGetErrorString"),
        supported_count: get!("nvrtcGetNumSupportedArchs"),
        supported: get!("nvrtcGetSupportedArchs"),
        create: get!("nvrtcCreateProgram"),
        compile: get!("nvrtcCompileProgram"),
        log_size: get!("nvrtcGetProgramLogSize"),
        log: get!("nvrtcGetProgramLog"),
        cubin_size: get!("nvrtcGetCUBINSize"),
        cubin: get!("nvrtcGetCUBIN"),
        ptx_size: get!("nvrtcGetPTXSize"),
        ptx: get!("nvrtcGetPTX"),
        destroy: get!("nvrtcDestroyProgram"),
    })
}

fn unavailable(path: &Path, why: impl ToString) -> Error {
    Error::Unavailable { what: format!("the NVRTC at {}", path.display()), why: why.to_string() }
}
