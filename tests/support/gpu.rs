//! An emulated device for tests, and what is put there.
#![allow(dead_code, reason = "each test binary uses its own part")]

use bytemuck::Pod;
use fair_moe::Result;
use fair_moe::gpu::Queue;
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::gpu::driver::{Arch, Driver};
use fair_moe::gpu::session::Session;
use std::sync::Arc;

/// How many seeds a test runs: FAIR_MOE_SEEDS, since a sanitizer makes each slow and needs one.
pub fn seeds() -> u64 {
    std::env::var("FAIR_MOE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(6).max(1)
}

/// All of these cases, or one in `every` under ThreadSanitizer, which takes a hundred times as long.
pub fn some_of<T>(every: usize, cases: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    let slow = std::env::var("FAIR_MOE_SANITIZE").is_ok_and(|kind| kind == "thread");
    cases.into_iter().step_by(if slow { every } else { 1 })
}

#[derive(Debug)]
pub struct Gpu {
    pub driver: Arc<dyn Driver>,
    pub session: Session,
}

impl Gpu {
    /// Two to four multiprocessors, of one architecture whose launches follow one another and of one where they overlap, as the seed says.
    pub fn new(seed: u64) -> Self {
        let arch = if seed.is_multiple_of(2) { Arch(80) } else { Arch::HOPPER };
        let settings = Settings { multiprocessors: 2 + (seed % 3) as u32, ..Settings::new(seed, arch) };
        let driver: Arc<dyn Driver> = Arc::new(Emulated::new(settings));
        let session = Session::new(&driver).unwrap();
        Self { driver, session }
    }

    /// Seeds 0 to 5, or as many as are asked for.
    pub fn seeds() -> impl Iterator<Item = Self> {
        (0..seeds()).map(Self::new)
    }

    /// Two of these, which differ from one `turn` to the next.
    pub fn some(turn: u64) -> impl Iterator<Item = Self> {
        [turn % seeds(), (turn + 3) % seeds()].into_iter().map(Self::new)
    }

    pub fn queue(&self) -> Queue<'_> {
        self.session.queue()
    }

    pub fn put<T: Pod>(&self, values: &[T]) -> Buffer<T> {
        self.session.upload(values).unwrap()
    }

    pub fn new_of<T: Pod>(&self, len: usize) -> Buffer<T> {
        self.session.empty(len).unwrap()
    }

    /// Captures what `run` launches, runs it, and names it.
    #[allow(unsafe_code)]
    pub fn launches(&self, run: impl FnOnce() -> Result<()>) -> Vec<&'static str> {
        let stream = self.queue().stream;
        // SAFETY: the session's stream; what is launched is right by the tests.
        let graph = unsafe {
            self.driver.begin_capture(stream).unwrap();
            let done = run();
            let graph = self.driver.end_capture(stream).unwrap();
            done.unwrap();
            self.driver.replay(stream, &graph).unwrap();
            graph
        };
        let names = self.driver.graph_kernels(&graph);
        self.driver.end_graph(graph);
        names
    }
}
