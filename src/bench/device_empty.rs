//! What a graph of one kernel that does nothing takes between two events: as little as any part can.

// SAFETY: a launch of no words reads and writes none.
#![allow(unsafe_code)]

use super::device::{Copies, Launches, driver_of};
use super::{Cost, Part, Pass, Stage, Times};
use crate::device::Device;
use crate::error::Result;
use crate::gpu::Queue;
use crate::gpu::args::FactProbe;
use crate::gpu::driver::Shape;
use crate::gpu::kernels::find;
use crate::gpu::session::Session;
use std::time::Duration;

/// Copies each of no words to nowhere.
const KERNEL: &str = "facts_follow";

struct Empty(Session);

/// Measured on a device as each part is; none on an emulated one, which has no clock.
///
/// # Errors
/// When the device is the CPU, or fails.
pub fn empty_graph(device: &Device, budget: Duration) -> Result<Option<Times>> {
    let driver = driver_of(device)?;
    driver.prepare(&find(KERNEL).into_iter().collect::<Vec<_>>())?;
    let copies = Copies::new(driver, usize::MAX, || Ok(Empty(Session::new(driver)?)))?;
    Ok(copies.measure((Stage::Layer, Pass::Forward), Cost::default(), budget)?.times)
}

impl Launches for Empty {
    fn queue(&self) -> Queue<'_> {
        self.0.queue()
    }

    fn launch(&self, queue: &Queue<'_>, _: Part) -> Result<()> {
        // SAFETY: as above.
        unsafe { queue.launch(KERNEL, Shape::blocks(1), &FactProbe::default()) }
    }
}
