//! The layer as a candle operation.

use super::{values, wrap};
use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::moe::{GradientMode, Layout, Moe, MoeInput, MoeState, Upstream};
use crate::parameters::{Parameters, flat_len};
use candle_core::{CpuStorage, CustomOp2, DType, Layout as Strides, Result, Shape, Tensor, WithDType, bail};
use half::{bf16, f16};
use std::sync::OnceLock;

/// A number that both this crate and candle compute with: `f32`, `f64`, `f16` or `bf16`.
pub trait Number: Element<Wide: WithDType> + WithDType {}
impl<T: Element<Wide: WithDType> + WithDType> Number for T {}

/// Which rows a layer is given, and which of them count: what [`MoeInput`] tells beside x.
#[derive(Clone, Debug)]
pub struct MoeRows {
    /// The order of the rows of x.
    pub layout: Layout,
    /// As [`MoeInput::row_mask`].
    pub row_mask: Option<Vec<bool>>,
    /// As [`MoeInput::rows_needed`].
    pub rows_needed: Option<Vec<usize>>,
}

impl MoeRows {
    /// All rows.
    pub fn new(layout: Layout) -> Self {
        Self { layout, row_mask: None, rows_needed: None }
    }

    fn input<'a, T>(&'a self, x: &'a [T], (tokens, samples): (usize, usize)) -> MoeInput<'a, T> {
        let Self { layout, row_mask, rows_needed } = self;
        MoeInput { x, tokens, samples, layout: *layout, row_mask: row_mask.as_deref(), rows_needed: rows_needed.as_deref() }
    }
}

/// What a layer returns. A gradient may come in on each of them.
#[derive(Clone, Debug)]
pub struct MoeOutput {
    /// Shape and dtype of x.
    pub y: Tensor,
    /// [.., E] the final weights, zero where a pair was not kept; like the other two f64 in an f64 layer, else f32.
    pub weights: Tensor,
    /// [.., E] the gate's probabilities.
    pub probabilities: Tensor,
    /// [.., E] the gate's logits.
    pub logits: Tensor,
}

/// Applies a layer to x [T, B, D] or [B, T, D], as `rows` says, with its flat parameters (f64, f32, f16 or bf16, as x).
///
/// Gradients reach x and the parameters.
///
/// # Errors
/// When shapes or dtypes disagree, or as [`Moe::forward`].
pub fn moe(layer: &Moe, x: &Tensor, parameters: &Tensor, rows: MoeRows) -> Result<MoeOutput> {
    match x.dtype() {
        DType::F64 => apply::<f64>(layer, x, parameters, rows),
        DType::F32 => apply::<f32>(layer, x, parameters, rows),
        DType::F16 => apply::<f16>(layer, x, parameters, rows),
        DType::BF16 => apply::<bf16>(layer, x, parameters, rows),
        other => bail!("x must be f64, f32, f16 or bf16, but is {other:?}"),
    }
}

fn apply<T: Number>(layer: &Moe, x: &Tensor, parameters: &Tensor, rows: MoeRows) -> Result<MoeOutput> {
    let (first, second, width) = x.dims3()?;
    let size = match rows.layout {
        Layout::TokensFirst => (first, second),
        Layout::SamplesFirst => (second, first),
    };
    let experts = layer.config().experts.count;
    let op = Op::<T> { layer: layer.clone(), rows, size, state: OnceLock::new() };
    let flat = x.contiguous()?.apply_op2(&parameters.contiguous()?, op)?;
    let mut start = 0;
    let mut cut = |last: usize| {
        let part = flat.narrow(0, start, first * second * last)?.reshape((first, second, last));
        start += first * second * last;
        part
    };
    Ok(MoeOutput {
        y: cut(width)?.to_dtype(x.dtype())?,
        weights: cut(experts)?,
        probabilities: cut(experts)?,
        logits: cut(experts)?,
    })
}

/// (x, flat parameters) -> [y | weights | probabilities | logits], flat and wide.
struct Op<T: Number> {
    layer: Moe,
    rows: MoeRows,
    /// (T, B).
    size: (usize, usize),
    /// What the forward pass leaves for the backward pass.
    state: OnceLock<MoeState<T>>,
}

impl<T: Number> Op<T> {
    fn config(&self) -> &MoeConfig {
        self.layer.config()
    }
}

impl<T: Number> CustomOp2 for Op<T> {
    fn name(&self) -> &'static str {
        "moe"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Strides, flat: &CpuStorage, fl: &Strides) -> Result<(CpuStorage, Shape)> {
        let x = values::of_storage::<T>(x, xl)?;
        let parameters = Parameters::from_flat(self.config(), values::of_storage::<T>(flat, fl)?).map_err(wrap)?;
        let mut y = vec![T::default(); x.len()];
        let mut state = MoeState::default();
        self.layer.forward(&parameters, &self.rows.input(x, self.size), &mut y, &mut state).map_err(wrap)?;
        let routing = &state.routing;
        let wide = y.iter().map(|y| y.wide());
        let gate = [&routing.weights, &routing.probabilities, &routing.logits].into_iter().flatten().copied();
        let out: Vec<T::Wide> = wide.chain(gate).collect();
        // An operation is applied once, so nothing was saved before.
        let _ = self.state.set(state);
        let shape = Shape::from(out.len());
        Ok((<T::Wide as WithDType>::to_cpu_storage_owned(out), shape))
    }

    fn bwd(&self, x: &Tensor, flat: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(state) = self.state.get() else { bail!("a layer's backward pass needs its forward pass") };
        let mut dx = vec![T::default(); x.elem_count()];
        let mut gradients = vec![T::default(); flat_len(self.config()).map_err(wrap)?];
        values::with::<T, _>(x, |x| {
            values::with::<T, _>(flat, |flat| {
                values::with::<T::Wide, _>(upstream, |upstream| {
                    let (dy, gate) = upstream.split_at(x.len());
                    let dy: Vec<T> = dy.iter().map(|&dy| T::narrow(dy)).collect();
                    let (dweights, gate) = gate.split_at(gate.len() / 3);
                    let (dprobabilities, dlogits) = gate.split_at(dweights.len());
                    let upstream = Upstream {
                        dy: &dy,
                        dweights: Some(dweights),
                        dprobabilities: Some(dprobabilities),
                        dlogits: Some(dlogits),
                    };
                    let parameters = Parameters::from_flat(self.config(), flat).map_err(wrap)?;
                    let mut gradients = Parameters::from_flat_mut(self.config(), &mut gradients).map_err(wrap)?;
                    let input = self.rows.input(x, self.size);
                    let mode = GradientMode::Overwrite;
                    let done = self.layer.backward(&parameters, &input, state, &upstream, &mut dx, &mut gradients, mode);
                    done.map_err(wrap)
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(gradients, flat.shape(), flat.device())?)))
    }
}
