//! The layer as candle operations.
//!
//! candle's operations take few tensors and give one, of one dtype. So two share what one pass computes: [`Gate`] computes it all and gives
//! what the gate said, f32 for a narrow layer; [`Output`] hands y over, in the layer's dtype. Back it goes the other way: `Output` keeps the
//! gradient on y for `Gate`, whose backward pass candle runs after, and which turns both gradients into those of x and the parameters.

#[cfg(feature = "candle-cuda")]
use super::cuda;
use super::{values, wrap};
use crate::dtype::Element;
use crate::moe::{GradientMode, Layout, Moe, MoeInput, MoeState, Upstream};
use crate::parameters::{Parameters, flat_len};
#[cfg(feature = "candle-cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout as Strides, Result, Shape, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

/// Applies a layer to x [T, B, D] or [B, T, D], as `rows` says, with its flat parameters (f64, f32, f16 or bf16, as x). Tensors on a GPU
/// are computed where they are, in f32, f16 or bf16; those on the CPU on the layer's device.
///
/// Gradients reach x and the parameters. Two backward passes through one result must follow one another.
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
    let (first, second, _) = x.dims3()?;
    let size = match rows.layout {
        Layout::TokensFirst => (first, second),
        Layout::SamplesFirst => (second, first),
    };
    let pass = Pass::<T> { layer: layer.clone(), rows, size, y: Mutex::default(), state: OnceLock::new(), dy: Mutex::default() };
    let pass = Arc::new(pass);
    let gate = x.contiguous()?.apply_op2(&parameters.contiguous()?, Gate(pass.clone()))?;
    let y = gate.apply_op1(Output(pass))?;
    let part = |i: usize| gate.narrow(0, i, 1)?.reshape((first, second, layer.config().experts.count));
    Ok(MoeOutput { y: y.reshape(x.shape())?, weights: part(0)?, probabilities: part(1)?, logits: part(2)? })
}

/// One application of a layer.
struct Pass<T: Number> {
    layer: Moe,
    rows: MoeRows,
    /// (T, B).
    size: (usize, usize),
    /// From the first operation to the second.
    y: Mutex<Option<Storage>>,
    /// What the forward pass leaves for the backward pass.
    state: OnceLock<State<T>>,
    /// The gradient on y, from the second operation to the first.
    dy: Mutex<Option<Tensor>>,
}

enum State<T: Number> {
    Host(MoeState<T>),
    #[cfg(feature = "candle-cuda")]
    Cuda(cuda::moe::State),
}

impl<T: Number> Pass<T> {
    /// [3, N, E].
    fn gate_shape(&self) -> Shape {
        Shape::from((3, self.size.0 * self.size.1, self.layer.config().experts.count))
    }

    fn take_y(&self) -> Result<(Storage, Shape)> {
        let Some(y) = lock(&self.y).take() else { bail!("a layer's output is handed over once") };
        Ok((y, Shape::from((self.size.0 * self.size.1, self.layer.config().width))))
    }

    fn backward_on_host(
        &self,
        state: &MoeState<T>,
        x: &Tensor,
        flat: &Tensor,
        dgate: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let config = self.layer.config();
        let mut dx = vec![T::default(); x.elem_count()];
        let mut gradients = vec![T::default(); flat_len(config).map_err(wrap)?];
        let mut pass = |x: &[T], flat: &[T], dgate: &[T::Wide], dy: &[T]| {
            let (dweights, others) = dgate.split_at(dgate.len() / 3);
            let (dprobabilities, dlogits) = others.split_at(dweights.len());
            let upstream =
                Upstream { dy, dweights: Some(dweights), dprobabilities: Some(dprobabilities), dlogits: Some(dlogits) };
            let parameters = Parameters::from_flat(config, flat)?;
            let mut gradients = Parameters::from_flat_mut(config, &mut gradients)?;
            let input = self.rows.input(x, self.size);
            self.layer.backward(&parameters, &input, state, &upstream, &mut dx, &mut gradients, GradientMode::Overwrite)
        };
        values::with::<T, _>(x, |x| {
            values::with::<T, _>(flat, |flat| {
                values::with::<T::Wide, _>(dgate, |dgate| values::with::<T, _>(dy, |dy| pass(x, flat, dgate, dy).map_err(wrap)))
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((dx, Tensor::from_vec(gradients, flat.shape(), flat.device())?))
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// (x, flat parameters) -> weights, probabilities and logits.
struct Gate<T: Number>(Arc<Pass<T>>);

impl<T: Number> CustomOp2 for Gate<T> {
    fn name(&self) -> &'static str {
        "moe"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Strides, flat: &CpuStorage, fl: &Strides) -> Result<(CpuStorage, Shape)> {
        let Pass { layer, rows, size, .. } = &*self.0;
        let x = values::of_storage::<T>(x, xl)?;
        let parameters = Parameters::from_flat(layer.config(), values::of_storage::<T>(flat, fl)?).map_err(wrap)?;
        let mut y = vec![T::default(); x.len()];
        let mut state = MoeState::default();
        layer.forward(&parameters, &rows.input(x, *size), &mut y, &mut state).map_err(wrap)?;
        let routing = &state.routing;
        let gate = [&routing.weights[..], &routing.probabilities, &routing.logits].concat();
        *lock(&self.0.y) = Some(Storage::Cpu(T::to_cpu_storage_owned(y)));
        // An operation is applied once, so nothing was saved before.
        let _ = self.0.state.set(State::Host(state));
        Ok((<T::Wide as WithDType>::to_cpu_storage_owned(gate), self.0.gate_shape()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Strides, flat: &CudaStorage, fl: &Strides) -> Result<(CudaStorage, Shape)> {
        let Pass { layer, rows, size, .. } = &*self.0;
        let (gate, y, state) = cuda::moe::forward(layer.config(), rows, *size, (x, xl), (flat, fl)).map_err(wrap)?;
        *lock(&self.0.y) = Some(Storage::Cuda(y));
        let _ = self.0.state.set(State::Cuda(state));
        Ok((gate, self.0.gate_shape()))
    }

    fn bwd(&self, x: &Tensor, flat: &Tensor, _gate: &Tensor, dgate: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(state) = self.0.state.get() else { bail!("a layer's backward pass needs its forward pass") };
        // Where nothing reads y there is no gradient on it.
        let dy = lock(&self.0.dy).take().map_or_else(|| x.zeros_like(), |dy| dy.contiguous())?;
        let (dx, dflat) = match state {
            State::Host(state) => self.0.backward_on_host(state, x, flat, dgate, &dy),
            #[cfg(feature = "candle-cuda")]
            State::Cuda(state) => cuda::moe::backward(state, x, flat, _gate, &dgate.contiguous()?, &dy).map_err(wrap),
        }?;
        Ok((Some(dx), Some(dflat)))
    }
}

/// (what the gate said) -> y.
struct Output<T: Number>(Arc<Pass<T>>);

impl<T: Number> CustomOp1 for Output<T> {
    fn name(&self) -> &'static str {
        "moe-output"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Strides) -> Result<(CpuStorage, Shape)> {
        match self.0.take_y()? {
            (Storage::Cpu(y), shape) => Ok((y, shape)),
            _ => bail!("y must be on the CPU"),
        }
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Strides) -> Result<(CudaStorage, Shape)> {
        match self.0.take_y()? {
            (Storage::Cuda(y), shape) => Ok((y, shape)),
            _ => bail!("y must be on the GPU"),
        }
    }

    fn bwd(&self, gate: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        *lock(&self.0.dy) = Some(dy.clone());
        // candle runs the backward pass only of what has a gradient.
        gate.zeros_like().map(Some)
    }
}
