//! Measuring on a device: each part as a graph, timed by events.

// SAFETY: a graph is of one of the copies, which outlive it, as does its stream; events are given back once.
#![allow(unsafe_code)]

use super::{Cost, Measurement, Part, Times};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu::Queue;
use crate::gpu::driver::{Driver, Event, Graph};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What runs kernels on that device.
pub fn driver_of(device: &Device) -> Result<&Arc<dyn Driver>> {
    device.driver().ok_or_else(|| Error::config("the device", "a GPU or its emulation", device))
}

/// Something whose parts can be launched one at a time, with memory of its own.
pub trait Launches {
    /// Its own stream.
    fn queue(&self) -> Queue<'_>;
    /// Launches one part on what the parts before it left.
    fn launch(&self, queue: &Queue<'_>, part: Part) -> Result<()>;
    /// What has to be launched anew before each run of a part, which takes away what it reads.
    fn needed_anew(&self, _: Part) -> Option<Part> {
        None
    }
}

/// What the host takes for two events, a replay and what has to be launched before it, with much to spare: a host that is behind would
/// be measured in place of the device.
const QUEUEING: Duration = Duration::from_micros(50);
/// How often a part is at most in the graph that the host gets ahead by.
const MOST_OFTEN: usize = 1024;

/// As many copies of one thing as its device's second-level cache needs to be full of another one each time.
pub struct Copies<L> {
    driver: Arc<dyn Driver>,
    copies: Vec<L>,
}

impl<L: Launches> Copies<L> {
    /// Of what reads so many bytes: enough for their inputs to be twice the cache.
    pub fn new(driver: &Arc<dyn Driver>, bytes: usize, new: impl Fn() -> Result<L>) -> Result<Self> {
        let count = (2 * driver.facts().cache_bytes as usize).div_ceil(bytes.max(1)).clamp(1, 16);
        let copies = (0..count).map(|_| new()).collect::<Result<Vec<L>>>()?;
        // What each put on its own stream comes before all that the first one's stream runs on its memory.
        for copy in &copies {
            let queue = copy.queue();
            // SAFETY: as above.
            unsafe { queue.driver.synchronise(queue.stream)? };
        }
        Ok(Self { driver: driver.clone(), copies })
    }

    /// Any of them.
    pub fn first(&self) -> &L {
        &self.copies[0]
    }

    /// Counts the part's launches, and times it by the device's own clock until `budget` is used up, at least five times; an emulated
    /// device only counts.
    pub fn measure(&self, part: Part, cost: Cost, budget: Duration) -> Result<Measurement> {
        let graphs = self.graphs(part)?;
        let launches = self.driver.graph_kernels(&graphs.graphs[0]).len();
        let timed = self.driver.facts().driver > 0;
        let times = if timed { Some(self.time(part, &graphs.graphs, budget)?) } else { None };
        Ok(Measurement { part, times, launches: Some(launches), cost })
    }

    /// The part on each copy.
    fn graphs(&self, part: Part) -> Result<Graphs<'_>> {
        let graphs = self.copies.iter().map(|copy| capture(copy, |queue| copy.launch(queue, part)));
        Ok(Graphs { driver: &self.driver, graphs: graphs.collect::<Result<_>>()? })
    }

    fn time(&self, part: Part, graphs: &[Graph], budget: Duration) -> Result<Times> {
        let moments = Moments::new(&self.driver, graphs.len())?;
        let ahead = self.ahead(part, &moments)?;
        let mut runs = vec![];
        self.round(part, graphs, &ahead.graphs, &moments)?;
        let begin = Instant::now();
        while runs.len() < 5 || (begin.elapsed() < budget && runs.len() < 1000) {
            runs.extend(self.round(part, graphs, &ahead.graphs, &moments)?);
        }
        Ok(Times::of(runs))
    }

    /// The part on the last copy, as often in one graph as keeps the device busy while the host queues it once on each.
    fn ahead(&self, part: Part, moments: &Moments<'_>) -> Result<Graphs<'_>> {
        let (queue, copy) = (self.first().queue(), &self.copies[self.copies.len() - 1]);
        let long_enough = QUEUEING.as_secs_f32() * 1e3 * (self.copies.len() + 1) as f32;
        let (from, to) = &moments.events[0];
        let mut often = 1;
        loop {
            let again = |queue: &Queue<'_>| {
                anew(copy, queue, part)?;
                copy.launch(queue, part)
            };
            let graph = capture(copy, |queue| (0..often).try_for_each(|_| again(queue)))?;
            let graphs = Graphs { driver: &self.driver, graphs: vec![graph] };
            // SAFETY: as above; the first replay is there so that the second does not wait for the host.
            let ms = unsafe {
                self.driver.replay(queue.stream, &graphs.graphs[0])?;
                self.driver.record(queue.stream, from)?;
                self.driver.replay(queue.stream, &graphs.graphs[0])?;
                self.driver.record(queue.stream, to)?;
                self.driver.elapsed_ms(from, to)?
            };
            if ms >= long_enough || often >= MOST_OFTEN {
                return Ok(graphs);
            }
            often *= 2;
        }
    }

    /// The part once on each copy, on one stream. What is `ahead` comes first, untimed: while the device is busy with it, the host gets
    /// ahead, so that no event waits for a launch.
    fn round(&self, part: Part, graphs: &[Graph], ahead: &[Graph], moments: &Moments<'_>) -> Result<Vec<Duration>> {
        let queue = self.first().queue();
        // SAFETY: as above.
        ahead.iter().try_for_each(|graph| unsafe { self.driver.replay(queue.stream, graph) })?;
        for ((copy, graph), (from, to)) in self.copies.iter().zip(graphs).zip(&moments.events) {
            anew(copy, &queue, part)?;
            // SAFETY: as above; the events stand until `moments` goes.
            unsafe {
                self.driver.record(queue.stream, from)?;
                self.driver.replay(queue.stream, graph)?;
                self.driver.record(queue.stream, to)?;
            }
        }
        // SAFETY: likewise.
        let each = moments.events.iter().map(|(from, to)| unsafe { self.driver.elapsed_ms(from, to) });
        each.map(|ms| Ok(Duration::from_secs_f64(f64::from(ms?.max(0.0)) / 1e3))).collect()
    }
}

/// Before each run: routing twice what was routed already would list far more pairs than there is room for.
fn anew(copy: &impl Launches, queue: &Queue<'_>, part: Part) -> Result<()> {
    copy.needed_anew(part).map_or(Ok(()), |before| copy.launch(queue, before))
}

fn capture(of: &impl Launches, launch: impl Fn(&Queue<'_>) -> Result<()>) -> Result<Graph> {
    let queue = of.queue();
    // SAFETY: as above.
    unsafe { queue.driver.begin_capture(queue.stream)? };
    let launched = launch(&queue);
    // SAFETY: likewise.
    let graph = unsafe { queue.driver.end_capture(queue.stream) };
    launched.and(graph)
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

impl<'a> Moments<'a> {
    /// So many, made before anything is timed.
    fn new(driver: &'a Arc<dyn Driver>, count: usize) -> Result<Self> {
        let mut moments = Self { driver, events: vec![] };
        for _ in 0..count {
            moments.events.push((driver.new_event()?, driver.new_event()?));
        }
        Ok(moments)
    }
}

impl Drop for Moments<'_> {
    fn drop(&mut self) {
        for (from, to) in self.events.drain(..) {
            // SAFETY: made in `new`, and given back once.
            unsafe {
                self.driver.end_event(from);
                self.driver.end_event(to);
            }
        }
    }
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use super::*;
    use crate::bench::{DeviceLayer, Pass, Stage};

    #[test]
    fn routing_can_be_timed_again_and_again() {
        let (device, shape) = ("emulated".parse().unwrap(), "vit-b16-text-skewed".parse().unwrap());
        let layer = DeviceLayer::<f32>::new(&shape, 1, &device).unwrap();
        let part = (Stage::Route, Pass::Forward);
        let graphs = layer.copies.graphs(part).unwrap();
        // Routing what is routed already would write far beyond its lists.
        layer.copies.time(part, &graphs.graphs, Duration::ZERO).unwrap();
    }
}
