//! The layer on a device, each part alone and the whole as one graph.

// SAFETY: every launch is that of a `Resident` and its passes, whose buffers outlive it.
#![allow(unsafe_code)]

use super::input::{LayerInput, PARTS};
use super::{Measurement, Part, Pass, Shape, Stage, Times};
use crate::device::Device;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::gpu::Queue;
use crate::gpu::buffer::Buffer;
use crate::gpu::driver::{Driver, Event, Facts, Graph};
use crate::gpu::moe::{Resident, ResidentBackward, ResidentForward, State, StatePart};
use crate::moe::Upstream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A layer of some shape with random input on a device, as often as its second-level cache needs to be full of another one each time.
pub struct DeviceLayer<T: Element> {
    input: LayerInput<T>,
    copies: Vec<Copy<T>>,
    driver: Arc<dyn Driver>,
    pairs: usize,
}

struct Copy<T: Element> {
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
        let driver = device.driver().ok_or_else(|| Error::config("the device", "a GPU or its emulation", device))?.clone();
        let input = LayerInput::new(shape, samples)?;
        let copies = (0..copies(driver.facts(), size_of_val(&*input.x))).map(|_| Copy::new(&input, &driver));
        let mut layer = Self { copies: copies.collect::<Result<Vec<_>>>()?, input, driver, pairs: 0 };
        let first = &layer.copies[0];
        first.run(&first.resident.queue(), (Stage::Gate, Pass::Forward))?;
        first.run(&first.resident.queue(), (Stage::Route, Pass::Forward))?;
        let mut offsets = vec![0u32; layer.input.config.experts.count + 2];
        first.state[StatePart::ExpertOffsets].read(bytemuck::cast_slice_mut(&mut offsets))?;
        layer.pairs = offsets[layer.input.config.experts.count] as usize;
        Ok(layer)
    }

    /// P.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Counts every part's launches, and times it by the device's own clock until `budget` is used up, at least five times; an emulated
    /// device only counts.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(&self, budget: Duration) -> Result<Vec<Measurement>> {
        PARTS.into_iter().map(|part| self.measure_part(part, budget)).collect()
    }

    fn measure_part(&self, part: Part, budget: Duration) -> Result<Measurement> {
        let graphs = self.copies.iter().map(|copy| copy.capture(part)).collect::<Result<Vec<_>>>();
        let graphs = Graphs { driver: &self.driver, graphs: graphs? };
        let launches = self.driver.graph_kernels(&graphs.graphs[0]).len();
        let timed = self.driver.facts().driver > 0;
        let times = if timed { Some(self.time(part, &graphs.graphs, budget)?) } else { None };
        Ok(Measurement { part, times, launches: Some(launches), cost: self.input.cost(part, self.pairs) })
    }

    fn time(&self, part: Part, graphs: &[Graph], budget: Duration) -> Result<Times> {
        let mut runs = vec![];
        self.round(part, graphs)?;
        let begin = Instant::now();
        while runs.len() < 5 || (begin.elapsed() < budget && runs.len() < 1000) {
            runs.extend(self.round(part, graphs)?);
        }
        Ok(Times::of(runs))
    }

    /// The part once on each copy, on one stream. The last copy comes first, untimed: while the device is busy with it, the host gets
    /// ahead, so that no event waits for a launch.
    fn round(&self, part: Part, graphs: &[Graph]) -> Result<Vec<Duration>> {
        let mut moments = Moments { driver: &self.driver, events: vec![] };
        let queue = self.copies[0].resident.queue();
        if let Some(graph) = graphs.last() {
            self.driver.replay(queue.stream, graph)?;
        }
        for (copy, graph) in self.copies.iter().zip(graphs) {
            // Routing takes away what it reads.
            if part == (Stage::Route, Pass::Forward) {
                copy.run(&queue, (Stage::Gate, Pass::Forward))?;
            }
            let (from, to) = moments.next()?;
            self.driver.record(queue.stream, from)?;
            self.driver.replay(queue.stream, graph)?;
            self.driver.record(queue.stream, to)?;
        }
        let each = moments.events.iter().map(|(from, to)| self.driver.elapsed_ms(from, to));
        each.map(|ms| Ok(Duration::from_secs_f64(f64::from(ms?.max(0.0)) / 1e3))).collect()
    }
}

/// As many as it takes for their inputs to be twice the cache.
fn copies(facts: &Facts, bytes: usize) -> usize {
    (2 * facts.cache_bytes as usize).div_ceil(bytes.max(1)).clamp(1, 16)
}

impl<T: Element> Copy<T> {
    fn new(input: &LayerInput<T>, driver: &Arc<dyn Driver>) -> Result<Self> {
        let resident = Resident::new(driver, &input.config, &input.parameters.as_slices(), &input.moe_input())?;
        let state = resident.new_state(true)?;
        let forward = resident.forward(&state)?;
        let backward = resident.backward::<T>(&state, &Upstream::new(&input.dy), None)?;
        Ok(Self { forward, backward, state, resident })
    }

    fn run(&self, queue: &Queue<'_>, (stage, pass): Part) -> Result<()> {
        let (forward, backward) = (&self.forward.launches, &self.backward.launches);
        // SAFETY: as above; a part runs behind those that it needs.
        unsafe {
            match (pass, stage) {
                (Pass::Forward, Stage::Gate) => forward.gate(queue),
                (Pass::Forward, Stage::Route) => forward.route(queue),
                (Pass::Forward, Stage::Experts) => forward.experts(queue),
                (Pass::Forward, Stage::Combine) => forward.combine(queue),
                (Pass::Forward, _) => forward.launch(queue),
                (Pass::Backward, Stage::Gate) => backward.gate(queue),
                (Pass::Backward, Stage::Route) => backward.route(queue),
                (Pass::Backward, Stage::Experts) => backward.experts(queue),
                (Pass::Backward, Stage::Combine) => backward.combine(queue),
                (Pass::Backward, _) => backward.launch(queue),
            }
        }
    }

    fn capture(&self, part: Part) -> Result<Graph> {
        let queue = self.resident.queue();
        queue.driver.begin_capture(queue.stream)?;
        let launched = self.run(&queue, part);
        let graph = queue.driver.end_capture(queue.stream);
        launched.and(graph)
    }
}

/// Graphs that are given back.
struct Graphs<'a> {
    driver: &'a Arc<dyn Driver>,
    graphs: Vec<Graph>,
}

impl Drop for Graphs<'_> {
    fn drop(&mut self) {
        self.graphs.drain(..).for_each(|graph| self.driver.end_graph(graph));
    }
}

/// Pairs of events that are given back.
struct Moments<'a> {
    driver: &'a Arc<dyn Driver>,
    events: Vec<(Event, Event)>,
}

impl Moments<'_> {
    fn next(&mut self) -> Result<&(Event, Event)> {
        self.events.push((self.driver.new_event()?, self.driver.new_event()?));
        self.events.last().ok_or_else(|| Error::Refused("no event was made".into()))
    }
}

impl Drop for Moments<'_> {
    fn drop(&mut self) {
        for (from, to) in self.events.drain(..) {
            self.driver.end_event(from);
            self.driver.end_event(to);
        }
    }
}
