//! The loss of what lies in the host's memory: up, launch, down.

use super::{DeviceBatch, DeviceGate, DeviceGradients, DeviceGroups, Memory, Problem, forward};
use crate::dtype::Float;
use crate::error::Result;
use crate::fol::{FolBatch, FolConfig, FolGradients, FolGroup, FolState, FolTerms, GateMoments, GateWeights, Groups};
use crate::gpu::buffer::Buffer;
use crate::gpu::contrast;
use crate::gpu::driver::{Driver, Pointer};
use crate::gpu::limits::narrow;
use crate::gpu::session::Session;
use crate::moments::Moments;
use bytemuck::Pod;
use std::sync::Arc;

/// As [`crate::Fol::forward`], of arguments that were checked.
pub(crate) fn host_forward<W: Float>(
    driver: &Arc<dyn Driver>,
    config: &FolConfig,
    batch: &FolBatch<'_, W>,
    groups: &Groups<'_, W>,
) -> Result<FolState> {
    driver.prepare(&super::kernels())?;
    let session = Session::new(driver)?;
    let up = Uploaded::new(&session, batch, groups)?;
    let offsets = Memory::new(driver.facts(), config, &up.problem, 0)?;
    let mut image = Image::new(&offsets);
    let block = image.upload(&session, driver, &offsets)?;
    let memory = Memory::new(driver.facts(), config, &up.problem, block.pointer())?;
    // SAFETY: the buffers have the shapes that were checked, and live on.
    unsafe { forward(&session.queue(), config, &up.problem, &memory)? };
    block.read(image.bytes())?;
    Ok(image.state(groups, &up.problem, &offsets))
}

/// As [`crate::Fol::backward`], of arguments that were checked.
pub(crate) fn host_backward<W: Float>(
    driver: &Arc<dyn Driver>,
    config: &FolConfig,
    batch: &FolBatch<'_, W>,
    groups: &Groups<'_, W>,
    state: &FolState,
    upstream: f64,
) -> Result<FolGradients<W>> {
    driver.prepare(&super::kernels())?;
    let session = Session::new(driver)?;
    let up = Uploaded::new(&session, batch, groups)?;
    let offsets = Memory::new(driver.facts(), config, &up.problem, 0)?;
    let mut image = Image::new(&offsets);
    image.put_state(groups, &up.problem, &offsets, state);
    let block = image.upload(&session, driver, &offsets)?;
    let memory = Memory::new(driver.facts(), config, &up.problem, block.pointer())?;
    let separate = if config.group_gradient { up.problem.separate() } else { &[] };
    let room = Room::new(&session, &up.problem.batch)?;
    let of_groups = separate.iter().map(|batch| Room::new(&session, batch)).collect::<Result<Vec<_>>>()?;
    let gradients = DeviceGradients { groups: of_groups.iter().map(Room::pointers).collect(), ..room.pointers() };
    let queue = session.queue();
    // SAFETY: the buffers have the shapes that were checked, and live on.
    unsafe {
        if config.lambda_clip != 0.0 {
            // A state holds nothing of the rows' and columns' sums: they are found anew.
            let mut job = super::forward::contrast_jobs(&up.problem, &memory)[0];
            (job.correlation, job.own) = (0, 0);
            contrast::forward(&queue, config.correlation, 0.0, &[job], 0, memory.parts, memory.counters)?;
        }
        super::backward(&queue, config, &up.problem, &memory, upstream, &gradients)?;
    }
    let of_groups = of_groups.iter().map(Room::read).collect::<Result<_>>()?;
    Ok(FolGradients { groups: of_groups, ..room.read()? })
}

/// What a forward pass left in its block, of which `read` gives the beginning; `at` counts from the block's beginning.
#[cfg(any(feature = "candle-cuda", all(test, feature = "candle", feature = "emulate")))]
pub(crate) fn read_state<W>(
    groups: &Groups<'_, W>,
    problem: &Problem,
    at: &Memory,
    read: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<FolState> {
    let mut image = Image::new(at);
    read(image.bytes())?;
    Ok(image.state(groups, problem, at))
}

/// What the passes read, on the device.
struct Uploaded {
    problem: Problem,
    _floats: Vec<Buffer<f32>>,
    _masks: Vec<Buffer<u8>>,
    _ids: Option<Buffer<i32>>,
}

impl Uploaded {
    fn new<W: Float>(session: &Session, batch: &FolBatch<'_, W>, groups: &Groups<'_, W>) -> Result<Self> {
        let (mut floats, mut masks, mut ids) = (vec![], vec![], None);
        let mut upload = |batch: &FolBatch<'_, W>| -> Result<DeviceBatch> {
            let mut put = |values: &[W]| -> Result<Pointer> {
                floats.push(session.upload(narrow(values)?)?);
                Ok(floats.last().map_or(0, Buffer::pointer))
            };
            let mut gate = |gate: &GateWeights<'_, W>| -> Result<DeviceGate> {
                let weights = put(gate.weights)?;
                let mask = gate.row_mask.map(|mask| mask.iter().map(|&counts| u8::from(counts)).collect::<Vec<u8>>());
                let row_mask = mask.map(|mask| session.upload(&mask)).transpose()?;
                let (experts, layout) = (gate.experts, gate.layout);
                let at = row_mask.as_ref().map_or(0, Buffer::pointer);
                masks.extend(row_mask);
                // The host has the weights alone.
                Ok(DeviceGate { weights, columns: 0, row_mask: at, rows: gate.weights.len() / experts, experts, layout })
            };
            let gates = batch.gates.iter().map(&mut gate).collect::<Result<_>>()?;
            Ok(DeviceBatch { similarity: put(batch.similarity)?, scale: batch.scale, samples: batch.samples, gates })
        };
        let batch = upload(batch)?;
        let groups = match groups {
            Groups::Separate(batches) => DeviceGroups::Separate(batches.iter().map(upload).collect::<Result<_>>()?),
            Groups::Ids { ids: all, count } => {
                let narrow: Vec<i32> = all.iter().map(|&id| id as i32).collect();
                let buffer = ids.insert(session.upload(&narrow)?);
                DeviceGroups::Ids { ids: buffer.pointer(), count: *count }
            }
        };
        Ok(Self { problem: Problem { batch, groups }, _floats: floats, _masks: masks, _ids: ids })
    }
}

/// Where the gradients on one batch come to be.
struct Room {
    dsimilarity: Buffer<f32>,
    dscale: Buffer<f64>,
    dweights: Vec<Buffer<f32>>,
}

impl Room {
    fn new(session: &Session, batch: &DeviceBatch) -> Result<Self> {
        let gate = |gate: &DeviceGate| session.empty(gate.rows * gate.experts);
        let dweights = batch.gates.iter().map(gate).collect::<Result<_>>()?;
        Ok(Self { dsimilarity: session.empty(batch.samples * batch.samples)?, dscale: session.empty(1)?, dweights })
    }

    fn pointers(&self) -> DeviceGradients {
        let dweights = self.dweights.iter().map(Buffer::pointer).collect();
        DeviceGradients { dsimilarity: self.dsimilarity.pointer(), dscale: self.dscale.pointer(), dweights, groups: vec![] }
    }

    fn read<W: Float>(&self) -> Result<FolGradients<W>> {
        let wide = |buffer: &Buffer<f32>| -> Result<Vec<W>> {
            Ok(buffer.to_vec()?.into_iter().map(|v| W::from_f64(v.into())).collect())
        };
        Ok(FolGradients {
            dsimilarity: wide(&self.dsimilarity)?,
            dscale: self.dscale.to_vec()?[0],
            dweights: self.dweights.iter().map(wide).collect::<Result<_>>()?,
            groups: vec![],
        })
    }
}

/// The part of a [`Memory`] that is a state, on the host. Words, so that f64 are where they may be.
struct Image(Vec<u64>);

impl Image {
    fn new(offsets: &Memory) -> Self {
        Self(vec![0; offsets.state_bytes / 8])
    }

    fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// A block that begins with it; what is behind it holds nothing in particular.
    fn upload(&mut self, session: &Session, driver: &Arc<dyn Driver>, offsets: &Memory) -> Result<Buffer<u8>> {
        let block = session.empty::<u8>(offsets.bytes)?;
        // SAFETY: the block is at least as long as its beginning.
        unsafe { driver.write(session.queue().stream, block.pointer(), self.bytes())? };
        Ok(block)
    }

    fn get<T: Pod>(&self, at: Pointer, len: usize) -> Vec<T> {
        bytemuck::cast_slice(&self.0[at as usize / 8..])[..len].to_vec()
    }

    fn put<T: Pod>(&mut self, at: Pointer, values: &[T]) {
        bytemuck::cast_slice_mut(&mut self.0[at as usize / 8..])[..values.len()].copy_from_slice(values);
    }

    fn state<W>(&self, groups: &Groups<'_, W>, problem: &Problem, at: &Memory) -> FolState {
        let (samples, (own, compared)) = (problem.batch.samples, problem.compared());
        let terms: Vec<f64> = self.get(at.terms, 6);
        let mut state = FolState {
            terms: FolTerms {
                total: terms[0],
                clip: terms[1],
                distance: terms[2],
                dispersion: terms[3],
                batch_variance: terms[4],
            },
            clip_loss: terms[5],
            correlation: self.get(at.correlation, samples),
            dcorrelation: self.get(at.dcorrelation, samples),
            ..FolState::default()
        };
        let (normalised, down): (Vec<f64>, Vec<f64>) = (self.get(at.normalised, own), self.get(at.down, own));
        let distances: Vec<f64> = self.get(at.distances, compared);
        for place in places(groups) {
            let pick = |all: &[f64]| place.samples.iter().map(|&i| all[i]).collect();
            let group = place.distance.map(|distance| FolGroup {
                correlation: pick(&normalised),
                distance: distances[distance],
                variance: vec![],
                dcorrelation: pick(&down),
            });
            state.push_group(group);
        }
        for (gate, at) in problem.batch.gates.iter().zip(&at.gates) {
            let (count, size) = (problem.groups() + 1, (problem.groups() + 1) * gate.experts);
            let count = self.get::<i32>(at.count, count).into_iter().map(|n| n as usize).collect();
            let moments = Moments { count, mean: self.get(at.mean, size), variance: self.get(at.variance, size) };
            let all = GateMoments { moments, dvariance: self.get(at.dvariance, size) };
            state.push_gate(all, gate.experts);
        }
        state
    }

    /// What backward reads.
    fn put_state<W>(&mut self, groups: &Groups<'_, W>, problem: &Problem, at: &Memory, state: &FolState) {
        self.put(at.dcorrelation, &state.dcorrelation);
        let mut down = vec![0.0; problem.compared().0];
        for (place, group) in places(groups).iter().zip(&state.groups) {
            let d = group.iter().flat_map(|group| &group.dcorrelation);
            place.samples.iter().zip(d).for_each(|(&i, &d)| down[i] = d);
        }
        self.put(at.down, &down);
        for ((own, whole), at) in state.group_moments.iter().zip(&state.batch_moments).zip(&at.gates) {
            let count: Vec<i32> = own.moments.count.iter().chain(&whole.moments.count).map(|&n| n as i32).collect();
            self.put(at.count, &count);
            self.put(at.mean, &[&own.moments.mean[..], &whole.moments.mean].concat());
            self.put(at.dvariance, &[&own.dvariance[..], &whole.dvariance].concat());
        }
    }
}

/// Where a group's correlations are among those of all groups, and its distance; none for a group without samples.
struct Place {
    samples: Vec<usize>,
    distance: Option<usize>,
}

fn places<W>(groups: &Groups<'_, W>) -> Vec<Place> {
    let (mut before, mut compared) = (0, 0);
    let place = |(g, members): (usize, Vec<usize>)| {
        let len = members.len();
        let place = match groups {
            Groups::Ids { .. } => Place { distance: (len > 0).then_some(g), samples: members },
            Groups::Separate(_) => Place { distance: (len > 0).then_some(compared), samples: (before..before + len).collect() },
        };
        (before, compared) = (before + len, compared + usize::from(len > 0));
        place
    };
    groups.members().into_iter().enumerate().map(place).collect()
}
