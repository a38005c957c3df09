//! The layer on a device, each part alone and the whole as one graph.

// SAFETY: every launch is that of a `Resident` and its passes, whose buffers outlive it.
#![allow(unsafe_code)]

use super::device::{Copies, Launches, driver_of};
use super::input::LayerInput;
use super::{Measurement, Part, Pass, Shape, Stage};
use crate::device::Device;
use crate::dtype::Element;
use crate::error::Result;
use crate::gpu::Queue;
use crate::gpu::buffer::Buffer;
use crate::gpu::driver::Driver;
use crate::gpu::moe::{Resident, ResidentBackward, ResidentForward, State, StatePart};
use crate::moe::Upstream;
use std::sync::Arc;
use std::time::Duration;

/// A layer of some shape with random input on a device.
pub struct DeviceLayer<T: Element> {
    input: LayerInput<T>,
    pub(super) copies: Copies<Layer<T>>,
    pairs: usize,
}

pub(super) struct Layer<T: Element> {
    forward: ResidentForward<T>,
    backward: ResidentBackward<T, T>,
    state: State<Buffer<u8>>,
    resident: Resident<T>,
}

impl<T: Element> DeviceLayer<T> {
    /// The layer of `shape` on B = `samples` samples.
    ///
    /// # Errors
    /// When that is too large, or the device is the CPU.
    pub fn new(shape: &Shape, samples: usize, device: &Device) -> Result<Self> {
        let (driver, mut input) = (driver_of(device)?, LayerInput::new(shape, samples)?);
        input.on_device = true;
        let copies = Copies::new(driver, size_of_val(&*input.x), || Layer::new(&input, driver))?;
        let first = copies.first();
        first.launch(&first.queue(), (Stage::Gate, Pass::Forward))?;
        first.launch(&first.queue(), (Stage::Route, Pass::Forward))?;
        let mut offsets = vec![0u32; input.config.experts.count + 2];
        first.state[StatePart::ExpertOffsets].read(bytemuck::cast_slice_mut(&mut offsets))?;
        let pairs = offsets[input.config.experts.count] as usize;
        Ok(Self { input, copies, pairs })
    }

    /// P.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Counts every part's launches, and times it until `budget` is used up; an emulated device only counts.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(&self, budget: Duration) -> Result<Vec<Measurement>> {
        let merged = self.copies.first().backward.launches.merges().then_some((Stage::Merged, Pass::Backward));
        let parts = self.input.parts().iter().copied().chain(Stage::PRODUCTS).chain(merged);
        parts.map(|part| self.measure_part(part, budget)).collect()
    }

    /// The same of one part.
    pub(super) fn measure_part(&self, part: Part, budget: Duration) -> Result<Measurement> {
        self.copies.measure(part, self.input.cost(part, self.pairs), budget)
    }
}

impl<T: Element> Layer<T> {
    fn new(input: &LayerInput<T>, driver: &Arc<dyn Driver>) -> Result<Self> {
        let resident = Resident::new(driver, &input.config, &input.parameters.as_slices(), &input.moe_input())?;
        let state = resident.new_state(true)?;
        let forward = resident.forward(&state)?;
        let mut backward = resident.backward::<T>(&state, &Upstream::new(&input.dy), None)?;
        if input.given {
            backward.launches = backward.launches.without_gate();
        }
        Ok(Self { forward, backward, state, resident })
    }
}

impl<T: Element> Launches for Layer<T> {
    fn queue(&self) -> Queue<'_> {
        self.resident.queue()
    }

    fn launch(&self, queue: &Queue<'_>, (stage, pass): Part) -> Result<()> {
        let (forward, backward) = (&self.forward.launches, &self.backward.launches);
        // SAFETY: as above; a part runs behind those that it needs.
        unsafe {
            match (pass, stage) {
                (Pass::Forward, Stage::Gate) => forward.gate(queue),
                (Pass::Forward, Stage::Route) => forward.route(queue),
                (Pass::Forward, Stage::Experts) => forward.experts(queue),
                (Pass::Forward, Stage::Combine) => forward.combine(queue),
                (Pass::Forward, Stage::Up) => forward.up(queue),
                (Pass::Forward, Stage::Down) => forward.down(queue),
                (Pass::Forward, Stage::Routed) => {
                    forward.route(queue)?;
                    forward.experts(queue)?;
                    forward.combine(queue)
                }
                (Pass::Forward, _) => forward.launch(queue),
                (Pass::Backward, Stage::Gate) => backward.gate(queue),
                (Pass::Backward, Stage::Route) => backward.route(queue),
                (Pass::Backward, Stage::Experts) => backward.experts(queue),
                (Pass::Backward, Stage::Combine) => backward.combine(queue),
                (Pass::Backward, Stage::Dinner) => backward.dinner(queue),
                (Pass::Backward, Stage::Dfc2) => backward.dfc2(queue),
                (Pass::Backward, Stage::Dx) => backward.dx(queue),
                (Pass::Backward, Stage::Dfc1) => backward.dfc1(queue),
                (Pass::Backward, Stage::Merged) => backward.merged(queue),
                (Pass::Backward, Stage::Routed) => {
                    backward.experts(queue)?;
                    backward.route(queue)?;
                    backward.combine(queue)
                }
                (Pass::Backward, _) => backward.launch(queue),
            }
        }
    }

    fn needed_anew(&self, part: Part) -> Option<Part> {
        match part {
            (Stage::Route | Stage::Routed, Pass::Forward) => Some((Stage::Gate, Pass::Forward)),
            // Those before them set the counters back of whatever they split.
            (Stage::Down, _) => Some((Stage::Up, Pass::Forward)),
            (Stage::Dx, _) => Some((Stage::Dinner, Pass::Backward)),
            _ => None,
        }
    }
}
