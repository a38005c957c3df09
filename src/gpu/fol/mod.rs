//! The loss on a device. The raw level: addresses, sizes and a stream, no more. It launches and nothing else: no allocation, no copy and
//! no wait, so that a pass can be captured as a graph. A pass is 3 launches forward and 2 back, for all groups and gates together: of up to
//! 32 arrays of weights and 50 batches; of more, a stage takes more.
//!
//! [`Memory`] tells how much a pass needs beside its input, and where in it everything is; forward leaves there what backward reads.

// SAFETY: what the addresses hold is the caller's promise, passed on to each launch.
#![allow(unsafe_code)]

mod backward;
mod forward;
mod memory;
mod slices;

pub use backward::{DeviceGradients, backward};
#[cfg(feature = "cli")]
pub(crate) use backward::{backward_contrast, backward_moments};
pub use forward::forward;
#[cfg(feature = "cli")]
pub(crate) use forward::{forward_contrast, forward_moments, forward_transport};
pub use memory::{GateMemory, Memory};
#[cfg(any(feature = "candle-cuda", all(test, feature = "candle", feature = "emulate")))]
pub(crate) use slices::read_state;
pub(crate) use slices::{host_backward, host_forward};

use super::driver::Pointer;
use super::kernels::{KERNELS, Kernel};
use super::limits::count;
use crate::error::{Error, Result};
use crate::moe::Layout;

/// The kernels of a loss, for [`super::driver::Driver::prepare`].
pub fn kernels() -> Vec<&'static Kernel> {
    let ours = |kernel: &&Kernel| ["moments", "contrast", "transport"].into_iter().any(|stem| kernel.name.starts_with(stem));
    KERNELS.iter().filter(ours).collect()
}

/// One gate's final weights over a batch; f32. Addresses are of device memory, 0 for none.
#[derive(Clone, Copy, Debug)]
pub struct DeviceGate {
    /// `[rows, E]`.
    pub weights: Pointer,
    /// `[B, E, 3]` count, mean and M2 of each (sample, expert) column of the weights, as route leaves them; none: forward reads the weights.
    pub columns: Pointer,
    /// u8 `[rows]`: 0 leaves a row out of the dispersion; none: all count.
    pub row_mask: Pointer,
    /// N.
    pub rows: usize,
    /// E.
    pub experts: usize,
    /// The order of the rows.
    pub layout: Layout,
}

/// One batch, as [`crate::FolBatch`].
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// f32 `[B, B]`.
    pub similarity: Pointer,
    /// What multiplies it to give logits.
    pub scale: f64,
    /// B.
    pub samples: usize,
    /// The gates whose dispersion counts.
    pub gates: Vec<DeviceGate>,
}

/// Where the groups are, as [`crate::Groups`].
#[derive(Clone, Debug)]
pub enum DeviceGroups {
    /// Each a batch of its own. One of no samples is left out.
    Separate(Vec<DeviceBatch>),
    /// In the batch itself.
    Ids {
        /// i32 `[B]`, -1 for a sample in none; every other id is below G.
        ids: Pointer,
        /// G.
        count: usize,
    },
}

/// A batch and its groups.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The batch.
    pub batch: DeviceBatch,
    /// Its groups.
    pub groups: DeviceGroups,
}

impl DeviceGate {
    /// Rows that follow one another and are of one sample.
    fn run(&self, samples: usize) -> usize {
        match self.layout {
            Layout::TokensFirst => 1,
            Layout::SamplesFirst => (self.rows / samples.max(1)).max(1),
        }
    }
}

impl Problem {
    /// G.
    fn groups(&self) -> usize {
        match &self.groups {
            DeviceGroups::Separate(batches) => batches.len(),
            DeviceGroups::Ids { count, .. } => *count,
        }
    }

    /// The groups that are batches of their own.
    fn separate(&self) -> &[DeviceBatch] {
        if let DeviceGroups::Separate(batches) = &self.groups { batches } else { &[] }
    }

    /// The groups' ids, 0 where groups are separate.
    fn ids(&self) -> Pointer {
        if let DeviceGroups::Ids { ids, .. } = self.groups { ids } else { 0 }
    }

    /// How many correlations of groups there are, and how many groups transport compares.
    fn compared(&self) -> (usize, usize) {
        match &self.groups {
            DeviceGroups::Ids { count, .. } => (self.batch.samples, *count),
            DeviceGroups::Separate(batches) => {
                (batches.iter().map(|batch| batch.samples).sum(), batches.iter().filter(|batch| batch.samples > 0).count())
            }
        }
    }

    /// The largest group, as far as the host knows.
    fn most(&self) -> usize {
        match &self.groups {
            DeviceGroups::Ids { .. } => self.batch.samples,
            DeviceGroups::Separate(batches) => batches.iter().map(|batch| batch.samples).max().unwrap_or(0).max(1),
        }
    }

    /// Checks the sizes; the addresses are checked where they are launched with.
    fn check(&self) -> Result<()> {
        if self.batch.samples == 0 {
            return Err(Error::config("the number of samples", "at least 1", 0));
        }
        crate::fol::check_ids(&[], self.groups())?;
        if matches!(self.groups, DeviceGroups::Ids { ids: 0, .. }) {
            return Err(Error::Refused("there is no address of the group ids".into()));
        }
        for batch in std::iter::once(&self.batch).chain(self.separate()) {
            count("the number of samples", batch.samples)?;
            let alike = batch.gates.iter().map(|gate| gate.experts).eq(self.batch.gates.iter().map(|gate| gate.experts));
            if !alike {
                return Err(Error::Refused("a group must have the batch's gates, of as many experts".into()));
            }
            for gate in &batch.gates {
                count("the number of a gate's rows", gate.rows)?;
                count("a gate's number of experts", gate.experts)?;
                let whole = matches!(self.groups, DeviceGroups::Separate(_)) || gate.rows % batch.samples == 0;
                if !whole {
                    let expected = format!("a multiple of the {} samples", batch.samples);
                    return Err(Error::config("with group ids, the number of a gate's rows", expected, gate.rows));
                }
            }
        }
        Ok(())
    }
}
