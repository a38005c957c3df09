//! The compiled kernels and what runs them: the C interface of kernels/host.

use super::Settings;
use crate::error::{Error, Result};
use crate::gpu::driver::Shape;
use crate::gpu::kernels::Kernel;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::sync::OnceLock;

pub(super) mod linked {
    use super::*;
    unsafe extern "C" {
        pub fn emulate_begin(
            kernel: *const c_char,
            grid: *const u32,
            shared_bytes: usize,
            args: *const c_void,
            dependent: c_int,
        ) -> *mut c_void;
        pub fn emulate_end(launch: *mut c_void, run: c_int) -> c_int;
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

/// (name, threads, bytes of arguments) of every kernel that was linked in.
pub(super) fn kernels() -> Vec<(String, u32, usize)> {
    let one = |number| {
        let (mut name, mut threads, mut bytes) = (std::ptr::null(), 0, 0);
        // SAFETY: three places to write to; the name is a constant of the library.
        let found = unsafe { linked::emulate_kernel(number, &mut name, &mut threads, &mut bytes) } != 0;
        found.then(|| (unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(), threads, bytes))
    };
    (0..).map_while(one).collect()
}

/// What the C++ compiler makes of the argument structs.
pub(super) fn layout() -> Vec<usize> {
    let count = crate::gpu::args::LAYOUT.len();
    // SAFETY: the build writes both tables from one list.
    let table = unsafe { std::slice::from_raw_parts((&raw const linked::fair_moe_layout).cast::<u64>(), count) };
    table.iter().map(|&offset| offset as usize).collect()
}

/// What runs the kernels.
pub(super) struct Library {
    begin: unsafe extern "C" fn(*const c_char, *const u32, usize, *const c_void, c_int) -> *mut c_void,
    end: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    error: unsafe extern "C" fn() -> *const c_char,
    configure: unsafe extern "C" fn(u32, u64, c_int, u32, c_int),
    pub malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    pub free: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Library {
    /// That which was linked in; or, where `FAIR_MOE_EMULATION` names a shared library, that one: this is how a change to a kernel
    /// is tried on every test without building the tests again.
    pub fn get() -> Result<&'static Library> {
        static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        let open = || match std::env::var_os("FAIR_MOE_EMULATION") {
            Some(path) => Self::load(&path).map_err(|why| format!("{}: {why}", path.display())),
            None => Ok(Self {
                begin: linked::emulate_begin,
                end: linked::emulate_end,
                error: linked::emulate_error,
                configure: linked::emulate_configure,
                malloc: linked::emulate_malloc,
                free: linked::emulate_free,
            }),
        };
        LIBRARY.get_or_init(open).as_ref().map_err(|why| Error::Refused(why.clone()))
    }

    fn load(path: &OsStr) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: a library made from this crate's kernels, whose functions have these types. It is never unloaded.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path)?));
            Ok(Self {
                begin: *library.get(b"emulate_begin")?,
                end: *library.get(b"emulate_end")?,
                error: *library.get(b"emulate_error")?,
                configure: *library.get(b"emulate_configure")?,
                malloc: *library.get(b"emulate_malloc")?,
                free: *library.get(b"emulate_free")?,
            })
        }
    }

    /// Begins a launch, which copies its arguments. The first blocks of a dependent one run up to their wait for the launches ahead.
    ///
    /// # Safety
    /// `args` is the struct that the kernel takes, and its addresses hold what the kernel reads and writes until the launch has ended.
    pub unsafe fn begin(
        &'static self,
        settings: &Settings,
        shared_bytes: u32,
        kernel: &Kernel,
        shape: Shape,
        args: *const u8,
    ) -> std::result::Result<Begun, String> {
        let name = CString::new(kernel.name).map_err(|_| "a kernel's name holds a 0")?;
        let Settings { workers, seed, mode, .. } = *settings;
        let (grid, bytes) = (shape.grid.as_ptr(), shape.shared_bytes as usize);
        // SAFETY: the caller's promise.
        let launch = unsafe {
            (self.configure)(workers, seed, mode as c_int, shared_bytes, shape.cooperative as c_int);
            (self.begin)(name.as_ptr(), grid, bytes, args.cast(), shape.dependent as c_int)
        };
        if launch.is_null() { Err(self.error()) } else { Ok(Begun { library: self, launch }) }
    }

    fn error(&self) -> String {
        // SAFETY: the text stands until this thread's next launch.
        unsafe { CStr::from_ptr((self.error)()) }.to_string_lossy().into_owned()
    }
}

/// A launch that has begun. One that is dropped is left where it stands.
pub(super) struct Begun {
    library: &'static Library,
    launch: *mut c_void,
}

// SAFETY: the library lets any thread end it.
unsafe impl Send for Begun {}

impl Begun {
    /// Runs it to its end, when the launches ahead have ended.
    pub fn end(mut self) -> std::result::Result<(), String> {
        let launch = std::mem::replace(&mut self.launch, std::ptr::null_mut());
        // SAFETY: ended once.
        let failed = unsafe { (self.library.end)(launch, 1) } != 0;
        if failed { Err(self.library.error()) } else { Ok(()) }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.launch.is_null() {
            // SAFETY: ended once.
            unsafe { (self.library.end)(self.launch, 0) };
        }
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Begun")
    }
}
