//! A layer with its inputs and gradients from behind, in f64, and both ways to run it.

use crate::config::MoeConfig;
use crate::device::Device;
use crate::dtype::Element;
use crate::error::Result;
use crate::moe::{GradientMode, Layout, Moe, MoeInput, MoeState, Routing, Upstream};
use crate::parameters::{Param, Parameters};
use crate::reference;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Everything that a forward and a backward pass take.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The layer.
    pub config: MoeConfig,
    /// Its parameters.
    pub parameters: Parameters<Vec<f64>>,
    /// [T, B, D] or [B, T, D].
    pub x: Vec<f64>,
    /// T.
    pub tokens: usize,
    /// B.
    pub samples: usize,
    /// The order of the rows.
    pub layout: Layout,
    /// As [`MoeInput::row_mask`].
    pub row_mask: Option<Vec<bool>>,
    /// As [`MoeInput::rows_needed`].
    pub rows_needed: Option<Vec<usize>>,
    /// Like x.
    pub dy: Vec<f64>,
    /// [N, E].
    pub dweights: Option<Vec<f64>>,
    /// [N, E].
    pub dprobabilities: Option<Vec<f64>>,
    /// [N, E].
    pub dlogits: Option<Vec<f64>>,
}

/// Everything that they give.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// Like x.
    pub y: Vec<f64>,
    /// What the gate and routing decided.
    pub routing: Routing<f64>,
    /// Like x.
    pub dx: Vec<f64>,
    /// Of every parameter.
    pub gradients: Parameters<Vec<f64>>,
}

impl Layer {
    /// Random values that bf16 holds exactly, for a layer of any configuration.
    pub fn random(config: MoeConfig, tokens: usize, samples: usize, layout: Layout, seed: u64) -> Layer {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut values = |n: usize, scale: f64| -> Vec<f64> {
            (0..n).map(|_| half::bf16::from_f64((rng.random::<f64>() * 2.0 - 1.0) * scale).to_f64()).collect()
        };
        let mut parameters: Parameters<Vec<f64>> = Parameters::init(&config, seed).unwrap_or_default();
        for p in Param::ALL {
            // A gate that is not near-uniform, as after training.
            let scale = if matches!(p, Param::GateFc2Weight) { 3.0 } else { 1.0 };
            parameters[p].iter_mut().for_each(|v| *v = half::bf16::from_f64(*v * scale).to_f64());
        }
        let (n, e) = (tokens * samples, config.experts.count);
        Layer {
            x: values(n * config.width, 1.0),
            dy: values(n * config.width, 1.0),
            dweights: Some(values(n * e, 1.0)),
            dprobabilities: Some(values(n * e, 0.5)),
            dlogits: Some(values(n * e, 0.1)),
            row_mask: None,
            rows_needed: None,
            config,
            parameters,
            tokens,
            samples,
            layout,
        }
    }

    /// `x` with the sizes, masks and order of this layer's.
    pub fn input<'a, T>(&'a self, x: &'a [T]) -> MoeInput<'a, T> {
        let mut input = MoeInput::new(x, self.tokens, self.samples, self.layout);
        input.row_mask = self.row_mask.as_deref();
        input.rows_needed = self.rows_needed.as_deref();
        input
    }

    /// By the reference.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn reference(&self) -> Result<Results> {
        let parameters = self.parameters.as_slices();
        let input = self.input(&self.x);
        let forward = reference::moe_forward(&self.config, &parameters, &input)?;
        let upstream = Upstream {
            dy: &self.dy,
            dweights: self.dweights.as_deref(),
            dprobabilities: self.dprobabilities.as_deref(),
            dlogits: self.dlogits.as_deref(),
        };
        let back = reference::moe_backward(&self.config, &parameters, &input, &upstream)?;
        Ok(Results { y: forward.y, routing: forward.routing, dx: back.dx, gradients: back.gradients })
    }

    /// What plain loops in f64 decide by the logits and probabilities that a gate gave, whatever these were rounded to.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn decisions_by(&self, gate: &Routing<f64>) -> Result<Routing<f64>> {
        reference::routing_of(&self.config, &self.input(&self.x), &gate.logits, &gate.probabilities)
    }

    /// By the layer on the CPU, in T, with parameter gradients in G.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn run<T: Element, G: Element>(&self) -> Result<Results> {
        self.run_on::<T, G>(&Device::cpu())
    }

    /// By the layer on that device.
    ///
    /// # Errors
    /// When a shape disagrees, or the device fails.
    pub fn run_on<T: Element, G: Element>(&self, device: &Device) -> Result<Results> {
        let narrow = |v: &[f64]| v.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let wide = |v: &Option<Vec<f64>>| v.as_ref().map(|v| v.iter().map(|&v| T::Wide::from_f64(v)).collect::<Vec<_>>());
        let parameters = Parameters::from_fn(|p| narrow(&self.parameters[p]));
        let (x, dy) = (narrow(&self.x), narrow(&self.dy));
        let (dweights, dprobabilities, dlogits) = (wide(&self.dweights), wide(&self.dprobabilities), wide(&self.dlogits));
        let moe = Moe::on(self.config.clone(), device.clone())?;
        let (mut state, mut y, mut dx) = (MoeState::default(), vec![T::default(); x.len()], vec![T::default(); x.len()]);
        let (parameters, input) = (parameters.as_slices(), self.input(&x));
        moe.forward(&parameters, &input, &mut y, &mut state)?;
        let upstream = Upstream {
            dy: &dy,
            dweights: dweights.as_deref(),
            dprobabilities: dprobabilities.as_deref(),
            dlogits: dlogits.as_deref(),
        };
        // What stands in a gradient buffer before an overwriting pass must not matter.
        let mut gradients = Parameters::from_fn(|p| vec![G::from_f64(f64::NAN); p.len(&self.config)]);
        let mode = GradientMode::Overwrite;
        moe.backward(&parameters, &input, &state, &upstream, &mut dx, &mut gradients.as_mut_slices(), mode)?;
        Ok(Results {
            y: to_f64(&y),
            routing: routing_f64(state.routing()),
            dx: to_f64(&dx),
            gradients: Parameters::from_fn(|p| to_f64(&gradients[p])),
        })
    }
}

pub(super) fn to_f64<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

fn routing_f64<W: Element>(r: &Routing<W>) -> Routing<f64> {
    Routing {
        hidden: to_f64(&r.hidden),
        logits: to_f64(&r.logits),
        probabilities: to_f64(&r.probabilities),
        chosen: r.chosen.clone(),
        weights: to_f64(&r.weights),
        expert_offsets: r.expert_offsets.clone(),
        pair_row: r.pair_row.clone(),
        pair_weight: to_f64(&r.pair_weight),
        row_pairs: r.row_pairs.clone(),
    }
}
