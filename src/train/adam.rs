//! The optimiser: Adam (Kingma and Ba) with weight decay coupled, as PyTorch's `Adam`, or decoupled, as its `AdamW`.

use super::settings::Module;
use crate::error::{Error, Result};
use crate::model::Weights;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamConfig {
    /// Decay of the mean of gradients, of the mean of their squares.
    pub betas: [f64; 2],
    /// What is added to the root of the mean square.
    pub epsilon: f64,
    /// Weight decay.
    pub decay: f64,
    /// Whether decay shrinks the weights themselves (AdamW); otherwise it is added to their gradients (Adam with L2).
    pub decoupled: bool,
}

impl AdamConfig {
    pub(super) fn check(&self) -> Result<()> {
        if let Some(beta) = self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return Err(Error::config("a beta of Adam", "from 0, and below 1", beta));
        }
        for (what, value) in [("Adam's epsilon", self.epsilon), ("the weight decay", self.decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(what, "a number from 0", value));
            }
        }
        Ok(())
    }
}

/// Flat moments of every parameter that moves, f32, where the parameter is, in the order of their names.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    config: AdamConfig,
    steps: u64,
    moments: BTreeMap<String, [Tensor; 2]>,
}

/// Numbers that a thread updates at least.
const PIECE: usize = 1 << 15;

/// What the two moments are called in files.
const NAMES: [&str; 2] = ["adam.mean", "adam.square"];

impl Adam {
    /// No steps done yet, of the parameters of `trainable`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(config: AdamConfig, trainable: &[Module], weights: &Weights) -> Result<Self> {
        let moving = weights.iter().filter(|(name, _)| trainable.contains(&Module::of(name)));
        let zeros = |var: &Var| Tensor::zeros(var.elem_count(), DType::F32, var.device());
        let moments = moving.map(|(name, var)| Ok((name.to_owned(), [zeros(var)?, zeros(var)?])));
        Ok(Self { config, steps: 0, moments: moments.collect::<Result<_>>()? })
    }

    /// Goes on from the moments that [`Adam::export`] gave after `steps` steps.
    ///
    /// # Errors
    /// When one is missing or has another size than its parameter.
    pub fn import(&mut self, tensors: &BTreeMap<String, Tensor>, steps: u64) -> Result<()> {
        self.steps = steps;
        for (name, moments) in &mut self.moments {
            for (moment, kind) in moments.iter_mut().zip(NAMES) {
                let key = format!("{kind}.{name}");
                let found = tensors.get(&key).filter(|t| t.dims() == moment.dims() && t.dtype() == DType::F32);
                let found = found.ok_or_else(|| Error::Refused(format!("the tensor {key} is missing or has another size")))?;
                *moment = found.to_device(moment.device())?;
            }
        }
        Ok(())
    }

    /// The moments as flat tensors on the CPU.
    ///
    /// # Errors
    /// When they cannot be had from their device.
    pub fn export(&self) -> Result<BTreeMap<String, Tensor>> {
        let all = self.moments.iter().flat_map(|(name, moments)| NAMES.iter().zip(moments).map(move |(kind, m)| (kind, name, m)));
        all.map(|(kind, name, moment)| Ok((format!("{kind}.{name}"), moment.to_device(&Device::Cpu)?))).collect()
    }

    /// How many steps were done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step at this learning rate.
    ///
    /// # Errors
    /// When a parameter has no gradient, or is not f32.
    pub fn step(&mut self, weights: &Weights, gradients: &GradStore, rate: f64) -> Result<()> {
        self.steps += 1;
        let step = Step::new(&self.config, self.steps, rate);
        for (name, var) in weights.iter() {
            let Some(moments) = self.moments.get_mut(name) else { continue };
            let missing = || Error::Refused(format!("the parameter {name} has no gradient"));
            let gradient = gradients.get(var).ok_or_else(missing)?.flatten_all()?;
            let values = var.as_detached_tensor().flatten_all()?;
            let apply = if var.device().is_cpu() { Step::on_the_cpu } else { Step::by_tensors };
            var.set(&apply(&step, &values, &gradient, moments)?.reshape(var.shape())?)?;
        }
        Ok(())
    }
}

/// The numbers of one step.
struct Step {
    /// The learning rate over the mean's bias correction.
    rate: f32,
    /// The root of the mean square's bias correction.
    root: f32,
    /// What decoupled decay leaves of a weight, and what coupled decay adds of it to its gradient.
    keep: f32,
    l2: f32,
    betas: [f32; 2],
    epsilon: f32,
}

impl Step {
    fn new(config: &AdamConfig, steps: u64, rate: f64) -> Self {
        let AdamConfig { betas, epsilon, decay, decoupled } = *config;
        let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
        let (keep, l2) = if decoupled { (1.0 - rate * decay, 0.0) } else { (1.0, decay) };
        Self {
            rate: (rate / correction(betas[0])) as f32,
            root: correction(betas[1]).sqrt() as f32,
            keep: keep as f32,
            l2: l2 as f32,
            betas: betas.map(|beta| beta as f32),
            epsilon: epsilon as f32,
        }
    }

    /// The new values of a parameter on the CPU; all tensors are flat.
    fn on_the_cpu(&self, values: &Tensor, gradient: &Tensor, moments: &mut [Tensor; 2]) -> candle_core::Result<Tensor> {
        let (mut values, gradient) = (values.to_vec1()?, gradient.to_vec1()?);
        let mut numbers = [moments[0].to_vec1()?, moments[1].to_vec1()?];
        self.apply(&mut values, &gradient, &mut numbers);
        let len = values.len();
        for (moment, numbers) in moments.iter_mut().zip(numbers) {
            *moment = Tensor::from_vec(numbers, len, &Device::Cpu)?;
        }
        Tensor::from_vec(values, len, &Device::Cpu)
    }

    /// The same on any device, where it stays.
    fn by_tensors(&self, values: &Tensor, gradient: &Tensor, moments: &mut [Tensor; 2]) -> candle_core::Result<Tensor> {
        // A gradient remembers how it came about; the moments would keep all of that in memory.
        let mut gradient = gradient.detach();
        if self.l2 != 0.0 {
            gradient = (gradient + (values * f64::from(self.l2))?)?;
        }
        let square = gradient.sqr()?;
        for ((moment, beta), new) in moments.iter_mut().zip(self.betas).zip([gradient, square]) {
            *moment = (&*moment + ((new - &*moment)? * f64::from(1.0 - beta))?)?;
        }
        let [mean, square] = moments;
        let root = ((square.sqrt()? / f64::from(self.root))? + f64::from(self.epsilon))?;
        (values * f64::from(self.keep))? - ((&*mean * f64::from(self.rate))? / root)?
    }

    fn apply(&self, values: &mut [f32], gradient: &[f32], [mean, square]: &mut [Vec<f32>; 2]) {
        let all = values.par_iter_mut().zip(gradient).zip(mean).zip(square).with_min_len(PIECE);
        all.for_each(|(((value, gradient), mean), square)| {
            let gradient = gradient + self.l2 * *value;
            *mean += (1.0 - self.betas[0]) * (gradient - *mean);
            *square += (1.0 - self.betas[1]) * (gradient * gradient - *square);
            *value = self.keep * *value - self.rate * *mean / (square.sqrt() / self.root + self.epsilon);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRADIENTS: [[f32; 3]; 3] = [[0.5, -1.0, 2.0], [1.0, 0.25, -2.0], [0.0, -3.0, 1.0]];

    type Apply = fn(&Step, &Tensor, &Tensor, &mut [Tensor; 2]) -> candle_core::Result<Tensor>;

    /// Values after steps at a rate of 0.1.
    fn after(apply: Apply, decoupled: bool, values: &[f32], gradients: &[Vec<f32>]) -> Vec<f32> {
        let config = AdamConfig { betas: [0.9, 0.98], epsilon: 1e-6, decay: 0.3, decoupled };
        let flat = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let mut values = flat(values);
        let mut moments = [values.zeros_like().unwrap(), values.zeros_like().unwrap()];
        for (i, gradient) in gradients.iter().enumerate() {
            values = apply(&Step::new(&config, i as u64 + 1, 0.1), &values, &flat(gradient), &mut moments).unwrap();
        }
        values.to_vec1().unwrap()
    }

    /// As PyTorch's `Adam` and `AdamW` do them.
    #[test]
    fn steps_agree_with_pytorch() {
        for (decoupled, want) in
            [(false, [0.715_896_8, -1.735_894_6, 0.374_119_7]), (true, [0.650_473_2, -1.613_867_6, 0.349_822_9])]
        {
            for apply in [Step::on_the_cpu as Apply, Step::by_tensors] {
                let values = after(apply, decoupled, &[1.0, -2.0, 0.5], &GRADIENTS.map(Vec::from));
                for (value, want) in values.iter().zip(want) {
                    approx::assert_abs_diff_eq!(*value, want, epsilon = 2e-6);
                }
            }
        }
    }

    /// Of values and gradients between 1e-8 and 1e2, some of them 0; near 0 to a millionth of the rate.
    #[test]
    fn steps_by_tensors_agree_with_those_on_the_cpu() {
        let number = |i: u32| (f64::from(i) * 1.618).sin() * 10f64.powf((f64::from(i) * 0.271).sin() * 5.0 - 3.0);
        let numbers = |from: u32| (from..from + 5000).map(|i| if i % 7 == 0 { 0.0 } else { number(i) as f32 }).collect();
        let (values, gradients): (Vec<f32>, Vec<Vec<f32>>) = (numbers(1), (1..6).map(|step| numbers(step * 10_000)).collect());
        for decoupled in [false, true] {
            let [want, found] = [Step::on_the_cpu as Apply, Step::by_tensors].map(|a| after(a, decoupled, &values, &gradients));
            for (want, found) in want.iter().zip(&found) {
                approx::assert_relative_eq!(*found, *want, max_relative = 1e-6, epsilon = 1e-7);
            }
        }
    }
}
