//! As candle operations with gradients, on this crate's CPU backend.

use crate::candle::{Number, values};
use crate::config::Activation;
use crate::cpu::transformer::attention::Attention;
use crate::cpu::transformer::linear::{Linear, LinearGradients};
use crate::cpu::transformer::norm;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};
use std::marker::PhantomData;

/// An operation that computes in T.
struct In<T, Op>(Op, PhantomData<T>);

impl<T, Op> In<T, Op> {
    fn new(op: Op) -> Self {
        Self(op, PhantomData)
    }
}

struct Norm;

/// Calls a function for the type of a tensor's numbers.
macro_rules! in_type_of {
    ($tensor:expr, $run:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F64 => $run::<f64>($($argument),*),
            DType::F32 => $run::<f32>($($argument),*),
            DType::F16 => $run::<f16>($($argument),*),
            DType::BF16 => $run::<bf16>($($argument),*),
            other => bail!("a model computes in f64, f32, f16 or bf16, but not in {other:?}"),
        }
    };
}

pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    fn run<T: Number>(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, In::<T, _>::new(Norm))
    }
    let width = x.dim(candle_core::D::Minus1)?;
    if weight.dims() != [width] || bias.dims() != [width] {
        bail!("a norm of rows of {width} cannot have parameters of shapes {:?} and {:?}", weight.dims(), bias.dims());
    }
    in_type_of!(x, run(x, weight, bias))
}

pub fn linear(x: &Tensor, activation: Option<Activation>, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    fn run<T: Number>(x: &Tensor, op: Linear, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (x, weight, op) = (x.contiguous()?, weight.contiguous()?, In::<T, _>::new(op));
        match bias {
            Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
            None => x.apply_op2(&weight, op),
        }
    }
    let (outputs, inputs) = weight.dims2()?;
    let width = x.dim(candle_core::D::Minus1)?;
    if width != inputs || bias.is_some_and(|bias| bias.dims() != [outputs]) {
        bail!("rows of {width} cannot pass a map of shape {:?} with a bias of shape {:?}", weight.dims(), bias.map(|b| b.dims()));
    }
    in_type_of!(x, run(x, Linear { activation, inputs, outputs }, weight, bias))
}

pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    fn run<T: Number>(q: &Tensor, k: &Tensor, v: &Tensor, op: Attention) -> Result<Tensor> {
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, In::<T, _>::new(op))
    }
    let (samples, tokens, width) = q.dims3()?;
    if k.dims() != q.dims() || v.dims() != q.dims() || heads == 0 || width % heads != 0 {
        bail!("{heads} heads cannot attend to tensors of shapes {:?}, {:?} and {:?}", q.dims(), k.dims(), v.dims());
    }
    in_type_of!(q, run(q, k, v, Attention { samples, tokens, width, heads, causal }))
}

/// The shape of what a map of rows of `shape` to `last` numbers gives.
fn with_last(shape: &Shape, last: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims.pop();
    dims.push(last);
    Shape::from(dims)
}

impl<T: Number> In<T, Linear> {
    fn forward(&self, x: (&CpuStorage, &Layout), weight: (&CpuStorage, &Layout), bias: &[T]) -> Result<(CpuStorage, Shape)> {
        let shape = with_last(x.1.shape(), self.0.outputs);
        let (x, weight) = (values::of_any_storage::<T>(x.0, x.1)?, values::of_any_storage::<T>(weight.0, weight.1)?);
        Ok((T::to_cpu_storage_owned(self.0.forward(&x, &weight, bias)), shape))
    }

    fn backward(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<LinearGradients<T>> {
        values::with_any::<T, _>(x, |x| {
            values::with_any::<T, _>(weight, |weight| values::with_any::<T, _>(dy, |dy| Ok(self.0.backward(x, weight, dy))))
        })
    }
}

impl<T: Number> CustomOp2 for In<T, Linear> {
    fn name(&self) -> &'static str {
        "linear without bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, weight: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((x, xl), (weight, wl), &[])
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let found = self.backward(x, weight, dy)?;
        Ok((Some(values::like(x, found.dx)?), Some(values::like(weight, found.dweight)?)))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl<T: Number> CustomOp3 for In<T, Linear> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, xl), (weight, wl), &values::of_any_storage::<T>(bias, bl)?)
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Three> {
        let found = self.backward(x, weight, dy)?;
        let dweight = values::like(weight, found.dweight)?;
        Ok((Some(values::like(x, found.dx)?), Some(dweight), Some(wide_like::<T>(bias, &found.dbias)?)))
    }
}

/// A tensor of the shape and the dtype of `like`, from sums in T's wide type.
fn wide_like<T: Number>(like: &Tensor, sums: &[T::Wide]) -> Result<Tensor> {
    Tensor::from_slice(sums, like.shape(), like.device())?.to_dtype(like.dtype())
}

impl<T: Number> CustomOp3 for In<T, Norm> {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weight, bias) = (wide::<T>(weight, wl)?, wide::<T>(bias, bl)?);
        let y = norm::forward::<T>(&values::of_any_storage::<T>(x, xl)?, &weight, &bias);
        Ok((T::to_cpu_storage_owned(y), xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Three> {
        let found = values::with_any::<T, _>(x, |numbers| {
            values::with_any::<T, _>(dy, |dy| {
                let weight = weight.contiguous()?;
                let (storage, layout) = weight.storage_and_layout();
                let candle_core::Storage::Cpu(storage) = &*storage else { bail!("the tensor must be on the CPU") };
                Ok(norm::backward::<T>(numbers, &wide::<T>(storage, layout)?, dy))
            })
        })?;
        let (dweight, dbias) = (wide_like::<T>(weight, &found.dweight)?, wide_like::<T>(bias, &found.dbias)?);
        Ok((Some(values::like(x, found.dx)?), Some(dweight), Some(dbias)))
    }
}

/// A small parameter in T's wide type.
fn wide<T: Number>(storage: &CpuStorage, layout: &Layout) -> Result<Vec<T::Wide>> {
    let numbers = values::of_any_storage::<f64>(storage, layout)?;
    Ok(numbers.iter().map(|&v| <T::Wide as crate::dtype::Element>::from_f64(v)).collect())
}

impl<T: Number> CustomOp3 for In<T, Attention> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [q, k, v] = [(q, ql), (k, kl), (v, vl)].map(|(storage, layout)| values::of_any_storage::<T>(storage, layout));
        Ok((T::to_cpu_storage_owned(self.0.forward(&q?, &k?, &v?)), ql.shape().clone()))
    }

    fn bwd(&self, q: &Tensor, k: &Tensor, v: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Three> {
        let [dq, dk, dv] = values::with_any::<T, _>(q, |q| {
            values::with_any::<T, _>(k, |k| {
                values::with_any::<T, _>(v, |v| values::with_any::<T, _>(dy, |dy| Ok(self.0.backward(q, k, v, dy))))
            })
        })?;
        Ok((Some(values::like(q, dq)?), Some(values::like(k, dk)?), Some(values::like(v, dv)?)))
    }
}
