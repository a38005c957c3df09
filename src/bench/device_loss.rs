//! The loss on a device, each part alone and the whole as one graph.

// SAFETY: every launch is of buffers that live as long as what launches, of the sizes that the problem tells.
#![allow(unsafe_code)]

use super::device::{Copies, Launches, driver_of};
use super::loss_input::{Batch, LOSS_PARTS, LossInput};
use super::{Measurement, Part, Pass, Shape, Stage};
use crate::device::Device;
use crate::error::Result;
use crate::fol::FolConfig;
use crate::gpu::Queue;
use crate::gpu::buffer::Buffer;
use crate::gpu::driver::{Driver, Pointer};
use crate::gpu::fol::{self, DeviceBatch, DeviceGate, DeviceGradients, DeviceGroups, Memory, Problem};
use crate::gpu::session::Session;
use crate::moe::Layout;
use std::sync::Arc;
use std::time::Duration;

/// The loss as published on a device, of the same input as [`LossWork`](super::LossWork)'s: each stage takes the batch and its groups at
/// once.
pub struct DeviceLoss {
    input: LossInput<f32>,
    copies: Copies<Loss>,
}

struct Loss {
    config: FolConfig,
    problem: Problem,
    memory: Memory,
    gradients: DeviceGradients,
    _floats: Vec<Buffer<f32>>,
    _block: Buffer<u8>,
    session: Session,
}

impl DeviceLoss {
    /// The loss behind the layer of `shape` on B = `samples` samples.
    ///
    /// # Errors
    /// When that is too large, or the device is the CPU.
    pub fn new(shape: &Shape, samples: usize, device: &Device) -> Result<Self> {
        let (driver, input) = (driver_of(device)?, LossInput::new(shape, samples)?);
        driver.prepare(&fol::kernels())?;
        let elements: usize = input.batches.iter().map(|batch| batch.logits.len() + batch.weights.len()).sum();
        let copies = Copies::new(driver, elements * size_of::<f32>(), || Loss::new(&input, driver))?;
        Ok(Self { input, copies })
    }

    /// Counts every part's launches, and times it until `budget` is used up; an emulated device only counts.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(&self, budget: Duration) -> Result<Vec<Measurement>> {
        LOSS_PARTS.into_iter().map(|part| self.copies.measure(part, self.input.cost_with_groups(part), budget)).collect()
    }
}

impl Loss {
    fn new(input: &LossInput<f32>, driver: &Arc<dyn Driver>) -> Result<Self> {
        let (config, session, mut floats) = (FolConfig::authors(), Session::new(driver)?, vec![]);
        let mut put = |buffer: Result<Buffer<f32>>| -> Result<Pointer> {
            let buffer = buffer?;
            let at = buffer.pointer();
            floats.push(buffer);
            Ok(at)
        };
        let (samples, experts) = (input.samples, input.experts);
        let mut upload = |batch: &Batch<f32>| -> Result<DeviceBatch> {
            let (weights, rows) = (put(session.upload(&batch.weights))?, batch.weights.len() / experts);
            let gate = DeviceGate { weights, columns: 0, row_mask: 0, rows, experts, layout: Layout::TokensFirst };
            Ok(DeviceBatch { similarity: put(session.upload(&batch.logits))?, scale: 1.0, samples, gates: vec![gate] })
        };
        let mut batches = input.batches.iter().map(&mut upload).collect::<Result<Vec<_>>>()?;
        let groups = DeviceGroups::Separate(batches.split_off(1));
        let problem = Problem { batch: batches.remove(0), groups };
        // Behind the memory is the scale's gradient.
        let block = session.upload(&vec![0u8; Memory::new(driver.facts(), &config, &problem, 0)?.bytes + 8])?;
        let memory = Memory::new(driver.facts(), &config, &problem, block.pointer())?;
        let gradients = DeviceGradients {
            dsimilarity: put(session.empty(input.batches[0].logits.len()))?,
            dweights: vec![put(session.empty(input.batches[0].weights.len()))?],
            dscale: block.pointer() + memory.bytes as u64,
            groups: vec![],
        };
        let loss = Self { config, problem, memory, gradients, _floats: floats, _block: block, session };
        loss.launch(&loss.queue(), (Stage::Fol, Pass::Forward))?;
        Ok(loss)
    }
}

impl Launches for Loss {
    fn queue(&self) -> Queue<'_> {
        self.session.queue()
    }

    fn launch(&self, queue: &Queue<'_>, (stage, pass): Part) -> Result<()> {
        let Self { config, problem, memory, gradients, .. } = self;
        // SAFETY: as above; a part runs behind those that it needs.
        unsafe {
            match (stage, pass) {
                (Stage::Moments, Pass::Forward) => fol::forward_moments(queue, config, problem, memory),
                (Stage::Contrast, Pass::Forward) => fol::forward_contrast(queue, config, problem, memory),
                (Stage::Transport, _) => fol::forward_transport(queue, config, problem, memory),
                (_, Pass::Forward) => fol::forward(queue, config, problem, memory),
                (Stage::Moments, Pass::Backward) => fol::backward_moments(queue, config, problem, memory, 1.0, gradients),
                (Stage::Contrast, Pass::Backward) => fol::backward_contrast(queue, config, problem, memory, 1.0, gradients),
                (_, Pass::Backward) => fol::backward(queue, config, problem, memory, 1.0, gradients),
            }
        }
    }
}
