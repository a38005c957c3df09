//! The loss over cudarc's slices. The raw level's launches on the caller's stream, which waits for nothing.

// SAFETY: every buffer is as long as the loss needs and lies in the context that launches, by the checks here; ids were checked before
// they were uploaded; what backward reads was left by a forward pass over buffers of the same lengths.
#![allow(unsafe_code)]

use super::{Uses, driver_of, failed, queue};
use crate::error::{Error, Result, expect_shape};
use crate::fol::{FolConfig, check_gate, check_ids};
use crate::gpu::driver::Driver;
use crate::gpu::driver::cuda::Cuda;
use crate::gpu::fol::{DeviceBatch, DeviceGate, DeviceGradients, DeviceGroups, Memory, Problem, backward, forward, kernels};
use crate::moe::Layout;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceSlice};
use std::sync::Arc;

/// A loss on a GPU.
#[derive(Debug)]
pub struct CudaFol {
    config: FolConfig,
    driver: Arc<Cuda>,
    stream: Arc<CudaStream>,
}

/// One gate's final weights over a batch.
pub struct CudaGate<'a> {
    /// `[rows, E]`.
    pub weights: CudaView<'a, f32>,
    /// E.
    pub experts: usize,
    /// The order of the rows.
    pub layout: Layout,
    /// `[rows]`: 0 leaves a row out of the dispersion; none: all count.
    pub row_mask: Option<CudaView<'a, u8>>,
}

/// One batch, as [`crate::FolBatch`].
pub struct CudaFolBatch<'a> {
    /// `[B, B]`.
    pub similarity: CudaView<'a, f32>,
    /// What multiplies it to give logits.
    pub scale: f64,
    /// B.
    pub samples: usize,
    /// The gates whose dispersion counts.
    pub gates: Vec<CudaGate<'a>>,
}

/// The group of each sample of a batch, on a GPU.
#[derive(Debug)]
pub struct GroupIds {
    ids: CudaSlice<i32>,
    count: usize,
}

/// Where the groups are, as [`crate::Groups`].
pub enum CudaGroups<'a> {
    /// Each a batch of its own.
    Separate(Vec<CudaFolBatch<'a>>),
    /// In the batch itself.
    Ids(&'a GroupIds),
}

/// Where gradients on one batch go. They overwrite what is there.
pub struct CudaFolGradients<'a> {
    /// `[B, B]`.
    pub dsimilarity: CudaViewMut<'a, f32>,
    /// One, on the scale.
    pub dscale: CudaViewMut<'a, f64>,
    /// Each gate's.
    pub dweights: Vec<CudaViewMut<'a, f32>>,
    /// On separate groups, in their order: written if gradients flow into groups.
    pub groups: Vec<CudaFolGradients<'a>>,
}

/// What forward leaves to backward, and room for both, in a GPU's memory. It grows to what is needed and no further.
#[derive(Debug)]
pub struct CudaFolState {
    block: CudaSlice<u8>,
    /// Of a pass of what, and where in the block its terms are.
    of: Option<(FolConfig, FolLengths, usize)>,
}

/// How long the buffers of a pass are, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolLengths {
    /// The batch, then separate groups.
    pub batches: Vec<BatchLengths>,
    /// The group ids, and how many groups there are.
    pub ids: Option<(usize, usize)>,
}

/// How long the buffers of one batch are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchLengths {
    /// B.
    pub samples: usize,
    /// The similarity.
    pub similarity: usize,
    /// Of each gate E, the weights and the mask of rows, if any.
    pub gates: Vec<(usize, usize, Option<usize>)>,
}

/// How long the gradients on one batch are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GradientLengths {
    /// On the similarity.
    pub similarity: usize,
    /// On the scale.
    pub scale: usize,
    /// On each gate's weights.
    pub weights: Vec<usize>,
}

impl FolLengths {
    /// Checks them against one another.
    ///
    /// # Errors
    /// Names the first that disagrees.
    pub fn check(&self) -> Result<()> {
        for batch in &self.batches {
            expect_shape("the similarity", &[batch.samples, batch.samples], batch.similarity)?;
            batch.gates.iter().try_for_each(|&(experts, weights, mask)| check_gate(experts, weights, mask))?;
        }
        let samples = self.batches.first().map_or(0, |batch| batch.samples);
        self.ids.map_or(Ok(()), |(len, _)| expect_shape("the group ids", &[samples], len))
    }
}

impl BatchLengths {
    /// Checks gradients on the batch, whose own lengths are right.
    ///
    /// # Errors
    /// Names the first that disagrees.
    pub fn check_gradients(&self, got: &GradientLengths) -> Result<()> {
        expect_shape("the gradient on the similarity", &[self.samples, self.samples], got.similarity)?;
        expect_shape("the gradient on the scale", &[1], got.scale)?;
        expect_shape("the gradients on gates", &[self.gates.len()], got.weights.len())?;
        let mut both = self.gates.iter().zip(&got.weights);
        both.try_for_each(|(&(e, len, _), &got)| expect_shape("a gradient on a gate's weights", &[len / e.max(1), e], got))
    }
}

impl GroupIds {
    /// Each from 0 to `count` - 1, or -1 for a sample that belongs to none.
    ///
    /// # Errors
    /// When one is neither, there are too many groups, or the GPU has no room.
    pub fn new(stream: &Arc<CudaStream>, ids: &[i64], count: usize) -> Result<Self> {
        check_ids(ids, count)?;
        let narrow: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        Ok(Self { ids: stream.clone_htod(&narrow).map_err(failed("the upload of group ids"))?, count })
    }
}

impl CudaFolState {
    /// Of nothing yet.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self { block: stream.alloc_zeros(1).map_err(failed("an allocation"))?, of: None })
    }

    /// The total, then the weighted cross entropy, distances, dispersions and the batch's own; then the cross entropy itself.
    ///
    /// # Errors
    /// When no forward pass left any.
    pub fn terms(&self) -> Result<CudaView<'_, f64>> {
        let none = || Error::Refused("no forward pass has left a state yet".into());
        let at = self.of.as_ref().ok_or_else(none)?.2;
        // SAFETY: any bits are an f64, and these are aligned as one.
        unsafe { self.block.slice(at..at + 48).transmute(6) }.ok_or_else(none)
    }
}

impl CudaFolBatch<'_> {
    fn lengths(&self) -> BatchLengths {
        let gate = |gate: &CudaGate<'_>| (gate.experts, gate.weights.len(), gate.row_mask.as_ref().map(DeviceSlice::len));
        let gates = self.gates.iter().map(gate).collect();
        BatchLengths { samples: self.samples, similarity: self.similarity.len(), gates }
    }

    fn raw<'a>(&'a self, uses: &mut Uses<'a>) -> Result<DeviceBatch> {
        let mut gates = vec![];
        for gate in &self.gates {
            let &CudaGate { experts, layout, .. } = gate;
            let (weights, row_mask) = (uses.read(&gate.weights)?, uses.read_or_none(&gate.row_mask)?);
            // The weights may be any, those of a layer or not, and the mask another than the layer's.
            gates.push(DeviceGate { weights, columns: 0, row_mask, rows: gate.weights.len() / experts, experts, layout });
        }
        let similarity = uses.read(&self.similarity)?;
        Ok(DeviceBatch { similarity, scale: self.scale, samples: self.samples, gates })
    }
}

impl CudaFolGradients<'_> {
    fn lengths(&self) -> GradientLengths {
        let weights = self.dweights.iter().map(DeviceSlice::len).collect();
        GradientLengths { similarity: self.dsimilarity.len(), scale: self.dscale.len(), weights }
    }

    fn raw<'a>(&'a mut self, uses: &mut Uses<'a>) -> Result<DeviceGradients> {
        Ok(DeviceGradients {
            dsimilarity: uses.write(&mut self.dsimilarity)?,
            dscale: uses.write(&mut self.dscale)?,
            dweights: self.dweights.iter_mut().map(|view| uses.write(view)).collect::<Result<_>>()?,
            groups: self.groups.iter_mut().map(|group| group.raw(uses)).collect::<Result<_>>()?,
        })
    }
}

impl CudaFol {
    /// A loss on the GPU of that stream, which every launch goes to; compiles its kernels, or finds them.
    ///
    /// # Errors
    /// When the configuration cannot be, the stream is not of the GPU's primary context, or the kernels cannot be had.
    pub fn new(config: FolConfig, stream: &Arc<CudaStream>) -> Result<Self> {
        config.check()?;
        config.check_gpu()?;
        let driver = driver_of(stream)?;
        driver.prepare(&kernels())?;
        Ok(Self { config, driver, stream: stream.clone() })
    }

    /// The loss, into the state's terms, and what backward needs.
    ///
    /// # Errors
    /// When a buffer's length disagrees, or a launch fails.
    pub fn forward(&self, batch: &CudaFolBatch<'_>, groups: &CudaGroups<'_>, state: &mut CudaFolState) -> Result<()> {
        let lengths = lengths(batch, groups)?;
        let mut uses = Uses::of(&self.stream);
        let problem = raw(batch, groups, &mut uses)?;
        let bytes = Memory::new(self.driver.facts(), &self.config, &problem, 0)?.bytes;
        state.of = None;
        if state.block.len() < bytes {
            state.block = self.stream.alloc_zeros(bytes).map_err(failed("an allocation"))?;
        }
        let begin = uses.write(&mut state.block)?;
        let memory = Memory::new(self.driver.facts(), &self.config, &problem, begin)?;
        // SAFETY: as above.
        unsafe { forward(&queue(&self.driver, &self.stream), &self.config, &problem, &memory)? };
        state.of = Some((self.config.clone(), lengths, (memory.terms - begin) as usize));
        Ok(())
    }

    /// `upstream` times the gradients of the loss; `batch` and `groups` as the forward pass had them.
    ///
    /// # Errors
    /// When a buffer's length disagrees, the state is of another batch, or a launch fails.
    pub fn backward(
        &self,
        batch: &CudaFolBatch<'_>,
        groups: &CudaGroups<'_>,
        state: &mut CudaFolState,
        upstream: f64,
        gradients: &mut CudaFolGradients<'_>,
    ) -> Result<()> {
        let lengths = lengths(batch, groups)?;
        lengths.batches[0].check_gradients(&gradients.lengths())?;
        let of_groups = lengths.batches[1..].iter().zip(&gradients.groups);
        of_groups.into_iter().try_for_each(|(group, gradients)| group.check_gradients(&gradients.lengths()))?;
        if !matches!(&state.of, Some((config, of, _)) if *config == self.config && *of == lengths) {
            return Err(Error::Refused("the state is not that of a forward pass of this loss over such a batch".into()));
        }
        let mut uses = Uses::of(&self.stream);
        let problem = raw(batch, groups, &mut uses)?;
        let begin = uses.write(&mut state.block)?;
        let memory = Memory::new(self.driver.facts(), &self.config, &problem, begin)?;
        let gradients = gradients.raw(&mut uses)?;
        // SAFETY: as above.
        unsafe { backward(&queue(&self.driver, &self.stream), &self.config, &problem, &memory, upstream, &gradients) }
    }
}

/// Those of the batch and its groups, checked.
fn lengths(batch: &CudaFolBatch<'_>, groups: &CudaGroups<'_>) -> Result<FolLengths> {
    let (separate, ids) = match groups {
        CudaGroups::Separate(batches) => (&batches[..], None),
        CudaGroups::Ids(ids) => (&[][..], Some((ids.ids.len(), ids.count))),
    };
    let lengths = FolLengths { batches: std::iter::once(batch).chain(separate).map(CudaFolBatch::lengths).collect(), ids };
    lengths.check()?;
    Ok(lengths)
}

fn raw<'a>(batch: &'a CudaFolBatch<'_>, groups: &'a CudaGroups<'_>, uses: &mut Uses<'a>) -> Result<Problem> {
    let groups = match groups {
        CudaGroups::Separate(batches) => {
            DeviceGroups::Separate(batches.iter().map(|batch| batch.raw(uses)).collect::<Result<_>>()?)
        }
        CudaGroups::Ids(ids) => DeviceGroups::Ids { ids: uses.read(&ids.ids)?, count: ids.count },
    };
    Ok(Problem { batch: batch.raw(uses)?, groups })
}
