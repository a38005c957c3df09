//! The loss as a candle operation.

#[cfg(feature = "candle-cuda")]
use super::cuda;
use super::{values, wrap};
use crate::dtype::{Element, Float};
use crate::fol::{Fol, FolBatch, FolGradients, FolState, GateWeights, Groups};
use crate::moe::Layout;
use candle_core::{CpuStorage, CustomOp1, DType, Layout as Strides, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "candle-cuda")]
use std::sync::Arc;
use std::sync::OnceLock;

/// One gate's final weights over a batch, as [`GateWeights`].
#[derive(Clone, Debug)]
pub struct GateTensor {
    /// [.., E], as [`super::MoeOutput`] gives them.
    pub weights: Tensor,
    /// The order of its rows.
    pub layout: Layout,
    /// `[rows]`: false leaves a row out of the dispersion.
    pub row_mask: Option<Vec<bool>>,
}

/// One batch, as [`FolBatch`]; f32 or f64 throughout.
#[derive(Clone, Debug)]
pub struct FolInput {
    /// [B, B] similarity of image i (row) and text j (column).
    pub similarity: Tensor,
    /// A scalar: what multiplies the similarity to give logits.
    pub scale: Tensor,
    /// The gates whose dispersion counts.
    pub gates: Vec<GateTensor>,
}

/// Where the groups are, as [`Groups`].
#[derive(Clone, Copy, Debug)]
pub enum TensorGroups<'a> {
    /// Each a batch of its own; constants unless the loss gives gradients to groups.
    Separate(&'a [FolInput]),
    /// In the batch itself.
    Ids {
        /// `[B]`, each from 0 to `count` - 1, or -1.
        ids: &'a [i64],
        /// G.
        count: usize,
    },
}

/// A loss, and what was found on the way.
#[derive(Clone, Debug)]
pub struct FolLoss {
    /// The total, a scalar that gradients flow back from.
    pub total: Tensor,
    state: OnceLock<FolState>,
    /// Where the state is read from when it is first asked for.
    #[cfg(feature = "candle-cuda")]
    left: Option<Arc<cuda::fol::Pass>>,
}

impl FolLoss {
    /// Its terms, the groups' figures, and warnings; of a loss on a GPU, this waits for them.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn state(&self) -> Result<&FolState> {
        #[cfg(feature = "candle-cuda")]
        if let (None, Some(left)) = (self.state.get(), &self.left) {
            let found = left.state().map_err(wrap)?;
            return Ok(self.state.get_or_init(|| found));
        }
        self.state.get().ok_or_else(|| candle_core::Error::msg("the loss has no state"))
    }
}

/// The loss of a batch and its groups. Gradients reach the similarity, the scale and the gates' weights. On a GPU it is computed where the
/// tensors are, in f32; the scales alone come to the host, which waits for them.
///
/// # Errors
/// When shapes or dtypes disagree, or as [`Fol::forward`].
pub fn fol(loss: &Fol, batch: &FolInput, groups: TensorGroups<'_>) -> Result<FolLoss> {
    match batch.similarity.dtype() {
        DType::F64 => apply::<f64>(loss, batch, groups),
        DType::F32 => apply::<f32>(loss, batch, groups),
        other => bail!("the similarity must be f64 or f32, but is {other:?}"),
    }
}

fn apply<W: Float + WithDType>(loss: &Fol, batch: &FolInput, groups: TensorGroups<'_>) -> Result<FolLoss> {
    let mut parts = batch.parts()?;
    let (separate, ids) = match groups {
        TensorGroups::Separate(groups) => (groups, None),
        TensorGroups::Ids { ids, count } => (&[][..], Some((ids.to_vec(), count))),
    };
    for group in separate {
        let group = group.parts()?.into_iter();
        parts.extend(group.map(|part| if loss.config().group_gradient { part } else { part.detach() }));
    }
    let flat = Tensor::cat(&parts, 0)?;
    let frame = Frame { batch: Shapes::of(batch)?, separate: separate.iter().map(Shapes::of).collect::<Result<_>>()?, ids };
    #[cfg(feature = "candle-cuda")]
    if flat.device().is_cuda() {
        let scales = std::iter::once(batch).chain(separate).map(|input| input.scale.to_dtype(DType::F64)?.to_scalar());
        let scales = scales.collect::<Result<_>>()?;
        let pass = Arc::new(cuda::fol::Pass::new(loss.config(), frame, scales));
        let total = flat.apply_op1(cuda::fol::Op(pass.clone()))?;
        return Ok(FolLoss { total, state: OnceLock::new(), left: Some(pass) });
    }
    let state = values::with::<W, _>(&flat, |flat| frame.lend(flat, |batch, groups| loss.forward(batch, groups).map_err(wrap)))?;
    let total = flat.apply_op1(Op { loss: loss.clone(), frame, state: state.clone(), wide: std::marker::PhantomData::<W> })?;
    Ok(FolLoss {
        total,
        state: OnceLock::from(state),
        #[cfg(feature = "candle-cuda")]
        left: None,
    })
}

impl FolInput {
    /// [similarity | scale | each gate's weights], each flat.
    fn parts(&self) -> Result<Vec<Tensor>> {
        let gates = self.gates.iter().map(|gate| &gate.weights);
        [&self.similarity, &self.scale].into_iter().chain(gates).map(|part| part.flatten_all()).collect()
    }
}

/// What a batch is beside its numbers.
#[derive(Debug)]
pub(super) struct Shapes {
    pub samples: usize,
    pub gates: Vec<GateShape>,
}

#[derive(Debug)]
pub(super) struct GateShape {
    pub rows: usize,
    pub experts: usize,
    pub layout: Layout,
    pub row_mask: Option<Vec<bool>>,
}

impl Shapes {
    fn of(input: &FolInput) -> Result<Self> {
        let (samples, texts) = input.similarity.dims2()?;
        if samples != texts || input.scale.elem_count() != 1 {
            let scale = input.scale.elem_count();
            bail!(
                "the similarity must be square and the scale one number, but they have {samples} x {texts} and {scale} elements"
            );
        }
        let gate = |gate: &GateTensor| {
            let experts = gate.weights.dim(candle_core::D::Minus1)?;
            let rows = gate.weights.elem_count() / experts.max(1);
            Ok(GateShape { rows, experts, layout: gate.layout, row_mask: gate.row_mask.clone() })
        };
        Ok(Self { samples, gates: input.gates.iter().map(gate).collect::<Result<_>>()? })
    }

    /// Cuts this batch's numbers off the front of `flat`.
    fn take<'a, W: Float>(&'a self, flat: &mut &'a [W]) -> Parts<'a, W> {
        let mut cut = |len: usize| {
            let (head, tail) = flat.split_at(len);
            *flat = tail;
            head
        };
        let similarity = cut(self.samples * self.samples);
        let scale = Element::to_f64(cut(1)[0]);
        let weights = |gate: &'a GateShape| GateWeights {
            weights: cut(gate.rows * gate.experts),
            experts: gate.experts,
            layout: gate.layout,
            row_mask: gate.row_mask.as_deref(),
        };
        Parts { samples: self.samples, similarity, scale, gates: self.gates.iter().map(weights).collect() }
    }
}

/// A batch, in slices of a flat tensor.
struct Parts<'a, W> {
    samples: usize,
    similarity: &'a [W],
    scale: f64,
    gates: Vec<GateWeights<'a, W>>,
}

impl<W> Parts<'_, W> {
    fn lend(&self) -> FolBatch<'_, W> {
        FolBatch { similarity: self.similarity, scale: self.scale, samples: self.samples, gates: &self.gates }
    }
}

/// How one flat tensor holds a batch and its groups.
#[derive(Debug)]
pub(super) struct Frame {
    pub batch: Shapes,
    pub separate: Vec<Shapes>,
    pub ids: Option<(Vec<i64>, usize)>,
}

impl Frame {
    /// Calls `read` with the batch and the groups that `flat` holds.
    pub(super) fn lend<'a, W: Float, R>(
        &'a self,
        mut flat: &'a [W],
        read: impl FnOnce(&FolBatch<'_, W>, &Groups<'_, W>) -> R,
    ) -> R {
        let batch = self.batch.take(&mut flat);
        let separate: Vec<_> = self.separate.iter().map(|shapes| shapes.take(&mut flat)).collect();
        let lent: Vec<_> = separate.iter().map(Parts::lend).collect();
        let groups = match &self.ids {
            Some((ids, count)) => Groups::Ids { ids, count: *count },
            None => Groups::Separate(&lent),
        };
        read(&batch.lend(), &groups)
    }
}

/// The flat tensor of a [`Frame`] -> the total of a loss that is already known.
struct Op<W> {
    loss: Fol,
    frame: Frame,
    state: FolState,
    wide: std::marker::PhantomData<W>,
}

impl<W: Float + WithDType> CustomOp1 for Op<W> {
    fn name(&self) -> &'static str {
        "fol"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Strides) -> Result<(CpuStorage, Shape)> {
        let total = <W as WithDType>::from_f64(self.state.terms.total);
        Ok((W::to_cpu_storage_owned(vec![total]), Shape::from(())))
    }

    fn bwd(&self, flat: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let found = values::with::<W, _>(flat, |flat| {
            self.frame.lend(flat, |batch, groups| self.loss.backward(batch, groups, &self.state, upstream).map_err(wrap))
        })?;
        let mut gradient: Vec<W> = Vec::with_capacity(flat.elem_count());
        let mut push = |found: FolGradients<W>| {
            gradient.extend(found.dsimilarity);
            gradient.push(<W as WithDType>::from_f64(found.dscale));
            gradient.extend(found.dweights.into_iter().flatten());
            found.groups
        };
        let groups = push(found);
        groups.into_iter().for_each(|group| drop(push(group)));
        // Groups that are constants have no gradient of their own.
        gradient.resize(flat.elem_count(), W::ZERO);
        Tensor::from_vec(gradient, flat.shape(), flat.device()).map(Some)
    }
}
