//! A layer's parameters: their names, shapes and order, and their initialisation.

use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::{Error, Result, all, expect_shape};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// One parameter tensor. Weights are `[out, in]` as in PyTorch; those of the experts are stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Param {
    /// `gate.fc1.weight` `[H, D]`; only where the gate has a hidden layer.
    GateFc1Weight,
    /// `gate.fc2.weight` `[E, H]`, or `[E, D]` where the gate has no hidden layer.
    GateFc2Weight,
    /// `experts.glu.weight` `[E, F, D]`: the map whose activation multiplies fc1's output; only in gated experts.
    ExpertsGluWeight,
    /// `experts.fc1.weight` `[E, F, D]`.
    ExpertsFc1Weight,
    /// `experts.fc2.weight` `[E, D, F]`.
    ExpertsFc2Weight,
    /// `shared.glu.weight` `[F, D]`; only with a shared expert, and gated.
    SharedGluWeight,
    /// `shared.fc1.weight` `[F, D]`.
    SharedFc1Weight,
    /// `shared.fc2.weight` `[D, F]`.
    SharedFc2Weight,
    /// `gate.fc1.bias` `[H]`.
    GateFc1Bias,
    /// `gate.fc2.bias` `[E]`.
    GateFc2Bias,
    /// `experts.glu.bias` `[E, F]`.
    ExpertsGluBias,
    /// `experts.fc1.bias` `[E, F]`.
    ExpertsFc1Bias,
    /// `experts.fc2.bias` `[E, D]`.
    ExpertsFc2Bias,
    /// `shared.glu.bias` `[F]`.
    SharedGluBias,
    /// `shared.fc1.bias` `[F]`.
    SharedFc1Bias,
    /// `shared.fc2.bias` `[D]`.
    SharedFc2Bias,
}

use Param::*;

impl Param {
    /// All, in the order in which a flat buffer holds them: weights first, so that each begins at a multiple of 16 bytes where widths are
    /// multiples of 32, which is what a GPU loads at a time.
    pub const ALL: [Param; 16] = [
        GateFc1Weight,
        GateFc2Weight,
        ExpertsGluWeight,
        ExpertsFc1Weight,
        ExpertsFc2Weight,
        SharedGluWeight,
        SharedFc1Weight,
        SharedFc2Weight,
        GateFc1Bias,
        GateFc2Bias,
        ExpertsGluBias,
        ExpertsFc1Bias,
        ExpertsFc2Bias,
        SharedGluBias,
        SharedFc1Bias,
        SharedFc2Bias,
    ];

    /// Its name in files, such as `experts.fc1.weight`.
    pub fn name(self) -> &'static str {
        match self {
            GateFc1Weight => "gate.fc1.weight",
            GateFc1Bias => "gate.fc1.bias",
            GateFc2Weight => "gate.fc2.weight",
            GateFc2Bias => "gate.fc2.bias",
            ExpertsGluWeight => "experts.glu.weight",
            ExpertsGluBias => "experts.glu.bias",
            ExpertsFc1Weight => "experts.fc1.weight",
            ExpertsFc1Bias => "experts.fc1.bias",
            ExpertsFc2Weight => "experts.fc2.weight",
            ExpertsFc2Bias => "experts.fc2.bias",
            SharedGluWeight => "shared.glu.weight",
            SharedGluBias => "shared.glu.bias",
            SharedFc1Weight => "shared.fc1.weight",
            SharedFc1Bias => "shared.fc1.bias",
            SharedFc2Weight => "shared.fc2.weight",
            SharedFc2Bias => "shared.fc2.bias",
        }
    }

    /// Its shape in a layer of this configuration; empty where the layer has no such parameter.
    pub fn shape(self, config: &MoeConfig) -> Vec<usize> {
        let (d, f, e) = (config.width, config.experts.width, config.experts.count);
        let hidden = config.gate.hidden.map(|h| h.width);
        let when = |has: bool, shape: &[usize]| if has { shape.to_vec() } else { vec![] };
        let (bias, gated, shared) = (config.experts.bias, config.experts.gated, config.shared_expert);
        match self {
            GateFc1Weight => when(hidden.is_some(), &[hidden.unwrap_or(0), d]),
            GateFc1Bias => when(hidden.is_some() && config.gate.bias, &[hidden.unwrap_or(0)]),
            GateFc2Weight => vec![e, hidden.unwrap_or(d)],
            GateFc2Bias => when(config.gate.bias, &[e]),
            ExpertsGluWeight => when(gated, &[e, f, d]),
            ExpertsGluBias => when(gated && bias, &[e, f]),
            ExpertsFc1Weight => vec![e, f, d],
            ExpertsFc1Bias => when(bias, &[e, f]),
            ExpertsFc2Weight => vec![e, d, f],
            ExpertsFc2Bias => when(bias, &[e, d]),
            SharedGluWeight => when(shared && gated, &[f, d]),
            SharedGluBias => when(shared && gated && bias, &[f]),
            SharedFc1Weight => when(shared, &[f, d]),
            SharedFc1Bias => when(shared && bias, &[f]),
            SharedFc2Weight => when(shared, &[d, f]),
            SharedFc2Bias => when(shared && bias, &[d]),
        }
    }

    /// How many elements it has in such a layer; 0 where the layer has no such parameter.
    pub fn len(self, config: &MoeConfig) -> usize {
        let shape = self.shape(config);
        // No layer has a parameter of usize::MAX elements, but its size can be asked for.
        if shape.is_empty() { 0 } else { shape.into_iter().fold(1, usize::saturating_mul) }
    }

    /// The number of inputs that each of its outputs sums over, which is what its initialisation scales with.
    pub(crate) fn fan_in(self, config: &MoeConfig) -> usize {
        match self {
            GateFc2Weight | GateFc2Bias => config.gate.hidden.map_or(config.width, |h| h.width),
            ExpertsFc2Weight | ExpertsFc2Bias | SharedFc2Weight | SharedFc2Bias => config.experts.width,
            _ => config.width,
        }
    }
}

/// One buffer for each [`Param`]; those that a layer does not have are empty. `S` is `Vec<T>`, `&[T]` or `&mut [T]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters<S>([S; 16]);

impl<S> std::ops::Index<Param> for Parameters<S> {
    type Output = S;
    fn index(&self, p: Param) -> &S {
        &self.0[p as usize]
    }
}

impl<S> std::ops::IndexMut<Param> for Parameters<S> {
    fn index_mut(&mut self, p: Param) -> &mut S {
        &mut self.0[p as usize]
    }
}

impl<S> Parameters<S> {
    /// Asks for each parameter in turn.
    pub fn from_fn(each: impl FnMut(Param) -> S) -> Self {
        Self(Param::ALL.map(each))
    }

    /// The same where asking can fail.
    pub(crate) fn try_from_fn(each: impl FnMut(Param) -> Result<S>) -> Result<Self> {
        all(Param::ALL.map(each)).map(Self)
    }

    /// What is made of each parameter.
    pub(crate) fn map<'a, R>(&'a self, each: impl FnMut(&'a S) -> R) -> Parameters<R> {
        Parameters(self.0.each_ref().map(each))
    }

    /// The same from a borrow for writing, where it can fail.
    #[cfg(feature = "cuda")]
    pub(crate) fn try_map_mut<'a, R>(&'a mut self, each: impl FnMut(&'a mut S) -> Result<R>) -> Result<Parameters<R>> {
        all(self.0.each_mut().map(each)).map(Parameters)
    }

    /// Checks every buffer's length against the layer.
    pub(crate) fn check<T>(&self, config: &MoeConfig) -> Result<()>
    where
        S: AsRef<[T]>,
    {
        Param::ALL.into_iter().try_for_each(|p| match p.len(config) {
            0 => expect_shape(p.name(), &[0], self[p].as_ref().len()),
            _ => expect_shape(p.name(), &p.shape(config), self[p].as_ref().len()),
        })
    }
}

impl<T: Element> Parameters<Vec<T>> {
    /// All zero: what gradients are accumulated into.
    ///
    /// # Errors
    /// As [`MoeConfig::check`], and when the machine has no room for them.
    pub fn zeros(config: &MoeConfig) -> Result<Self> {
        Self::filled(config, |_| T::default())
    }

    /// As PyTorch initialises `nn.Linear`: uniform in ±1/√fan_in, weights and biases alike. The same seed gives the same values.
    ///
    /// # Errors
    /// As [`Parameters::zeros`].
    pub fn init(config: &MoeConfig, seed: u64) -> Result<Self> {
        let mut rng = Pcg64::seed_from_u64(seed);
        Self::filled(config, |p| {
            let bound = 1.0 / (p.fan_in(config) as f64).sqrt();
            T::from_f64((rng.random::<f64>() * 2.0 - 1.0) * bound)
        })
    }

    fn filled(config: &MoeConfig, mut element: impl FnMut(Param) -> T) -> Result<Self> {
        let total = flat_len(config)?;
        let no_room = |_| Error::Refused(format!("this machine has no room for the layer's {total} parameters"));
        let mut all = Self::default();
        Param::ALL.iter().try_for_each(|&p| all[p].try_reserve_exact(p.len(config)).map_err(no_room))?;
        for p in Param::ALL {
            all[p].extend((0..p.len(config)).map(|_| element(p)));
        }
        Ok(all)
    }

    /// Makes every expert, the shared one too, a copy of a trained two-layer network of the same shape; the gate stays as it is.
    ///
    /// fc1_weight `[F, D]`, fc1_bias `[F]`, fc2_weight `[D, F]`, fc2_bias `[D]`; biases are empty where the experts have none.
    /// In gated experts this sets fc1 and fc2, and leaves the gating map as it is.
    ///
    /// # Errors
    /// When a shape disagrees with the layer's.
    pub fn copy_mlp(
        &mut self,
        config: &MoeConfig,
        fc1_weight: &[T],
        fc1_bias: &[T],
        fc2_weight: &[T],
        fc2_bias: &[T],
    ) -> Result<()> {
        let (d, f) = (config.width, config.experts.width);
        let bias = |n: usize| if config.experts.bias { n } else { 0 };
        expect_shape("the network's fc1.weight", &[f, d], fc1_weight.len())?;
        expect_shape("the network's fc1.bias", &[bias(f)], fc1_bias.len())?;
        expect_shape("the network's fc2.weight", &[d, f], fc2_weight.len())?;
        expect_shape("the network's fc2.bias", &[bias(d)], fc2_bias.len())?;
        let pairs = [
            (ExpertsFc1Weight, SharedFc1Weight, fc1_weight),
            (ExpertsFc1Bias, SharedFc1Bias, fc1_bias),
            (ExpertsFc2Weight, SharedFc2Weight, fc2_weight),
            (ExpertsFc2Bias, SharedFc2Bias, fc2_bias),
        ];
        for (experts, shared, from) in pairs.into_iter().filter(|p| !p.2.is_empty()) {
            for to in [experts, shared] {
                self[to].chunks_exact_mut(from.len()).for_each(|to| to.copy_from_slice(from));
            }
        }
        Ok(())
    }

    /// Borrowed, as [`crate::Moe::forward`] takes them.
    pub fn as_slices(&self) -> Parameters<&[T]> {
        Parameters(self.0.each_ref().map(Vec::as_slice))
    }

    /// Borrowed for writing, as [`crate::Moe::backward`] takes gradients.
    pub fn as_mut_slices(&mut self) -> Parameters<&mut [T]> {
        Parameters(self.0.each_mut().map(Vec::as_mut_slice))
    }
}

impl<'a, T> Parameters<&'a [T]> {
    /// Views of one flat buffer that holds the parameters in the order of [`Param::ALL`].
    ///
    /// # Errors
    /// When the buffer has another length than [`flat_len`].
    pub fn from_flat(config: &MoeConfig, mut flat: &'a [T]) -> Result<Self> {
        expect_shape("the flat parameters", &[flat_len(config)?], flat.len())?;
        Ok(Self::from_fn(|p| {
            let (head, tail) = flat.split_at(p.len(config));
            flat = tail;
            head
        }))
    }
}

impl<'a, T> Parameters<&'a mut [T]> {
    /// The same buffers for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Parameters<&mut [T]> {
        Parameters(self.0.each_mut().map(|s| &mut **s))
    }

    /// The same for writing.
    ///
    /// # Errors
    /// When the buffer has another length than [`flat_len`].
    pub fn from_flat_mut(config: &MoeConfig, mut flat: &'a mut [T]) -> Result<Self> {
        expect_shape("the flat gradients", &[flat_len(config)?], flat.len())?;
        Ok(Self::from_fn(|p| {
            let (head, tail) = std::mem::take(&mut flat).split_at_mut(p.len(config));
            flat = tail;
            head
        }))
    }
}

/// How many elements all parameters of a layer have together.
///
/// # Errors
/// As [`MoeConfig::check`].
pub fn flat_len(config: &MoeConfig) -> Result<usize> {
    config.check()?;
    Ok(Param::ALL.iter().map(|p| p.len(config)).sum())
}
