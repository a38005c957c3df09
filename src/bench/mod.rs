//! What is measured, for the command line's `bench` and for other benchmarks: the shapes, the work of each stage with its cost, on the
//! CPU and on a device, and the machine's ceilings.
//!
//! The shapes of the ViTs run what PyTorch's published form runs: ReLU gate and experts, E = 10, K = 3, C = 47, x subtracted, no
//! renormalising, every row needed; backward gives dx and all parameter gradients. Those of language models start from given
//! probabilities: SwiGLU experts without biases or capacity; backward gives dx, the experts' gradients, and that on the logits.

mod device;
mod device_empty;
mod device_layer;
mod device_loss;
mod input;
mod layer;
mod loss;
mod loss_input;
mod machine;
mod predicted;
#[cfg(feature = "model")]
mod roofline;
mod saved;
mod shape;
#[cfg(feature = "model")]
mod step;
mod timing;

#[cfg(feature = "model")]
pub use crate::train::peak_memory;
pub use device_empty::empty_graph;
pub use device_layer::DeviceLayer;
pub use device_loss::DeviceLoss;
pub use layer::LayerWork;
pub use loss::LossWork;
pub use machine::{Ceilings, cpu_name, instruction_sets};
pub use predicted::{Predicted, card, card_of, predicted};
#[cfg(feature = "model")]
pub use roofline::{Found, roofline};
pub use saved::Saved;
pub use shape::{Fill, Shape};
#[cfg(feature = "model")]
pub use step::StepWork;
pub use timing::{Measurement, Times, measure};

use crate::error::Result;

/// A part of the layer or the loss, or the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The gate network, softmax and top-k.
    Gate,
    /// Capacity, pair lists and final weights.
    Route,
    /// The experts on their pairs.
    Experts,
    /// Each row's sum over its pairs.
    Combine,
    /// Of the experts' products: x fc1ᵀ, in gated experts with that of the gating map.
    Up,
    /// hidden fc2ᵀ.
    Down,
    /// dy fc2.
    Dinner,
    /// dinner fc1.
    Dx,
    /// dinnerᵀ x.
    Dfc1,
    /// dyᵀ hidden.
    Dfc2,
    /// Dfc2, Dfc1 and Dx in one launch.
    Merged,
    /// Count, mean and variance of each group's columns.
    Moments,
    /// Cross entropy and correlations of the logits.
    Contrast,
    /// Distances between the batch and each group.
    Transport,
    /// The whole layer.
    Layer,
    /// All of it but the gate: what there is to do from given probabilities.
    Routed,
    /// The whole loss.
    Fol,
    /// A model's training step: towers and loss, then every gradient.
    Step,
    /// What the optimiser does with the gradients.
    Adam,
}

impl Stage {
    /// The experts' products, in the order in which one needs what another leaves.
    pub(super) const PRODUCTS: [Part; 6] = {
        use {Pass::*, Stage::*};
        [(Up, Forward), (Down, Forward), (Dinner, Backward), (Dfc2, Backward), (Dx, Backward), (Dfc1, Backward)]
    };

    /// Whether it is one of the experts' products, or several.
    pub(super) fn is_product(self) -> bool {
        self == Stage::Merged || Self::PRODUCTS.iter().any(|product| product.0 == self)
    }

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Gate => "gate",
            Stage::Route => "route",
            Stage::Experts => "experts",
            Stage::Combine => "combine",
            Stage::Up => "up",
            Stage::Down => "down",
            Stage::Dinner => "dinner",
            Stage::Dx => "dx",
            Stage::Dfc1 => "dfc1",
            Stage::Dfc2 => "dfc2",
            Stage::Merged => "merged",
            Stage::Moments => "moments",
            Stage::Contrast => "contrast",
            Stage::Transport => "transport",
            Stage::Layer => "layer",
            Stage::Routed => "routed",
            Stage::Fol => "fol",
            Stage::Step => "step",
            Stage::Adam => "adam",
        }
    }
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// From input to output.
    Forward,
    /// From the output's gradient to the inputs'.
    Backward,
}

impl Pass {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
        }
    }
}

/// One stage in one direction.
pub type Part = (Stage, Pass);

/// What a run of one part has to do at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating point operations; a multiplication with its addition counts two.
    pub flops: f64,
    /// Bytes moved if each tensor is read or written once.
    pub bytes: f64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// Something whose parts can be run one at a time, as often as wanted.
pub trait Work {
    /// The parts that it has, in the order in which one needs what another leaves.
    fn parts(&self) -> &'static [Part];
    /// Runs one part on what the parts before it left when they last ran.
    ///
    /// # Errors
    /// Those of the layer or the loss.
    fn run(&mut self, part: Part) -> Result<()>;
    /// What that run has to do.
    fn cost(&self, part: Part) -> Cost;
}
