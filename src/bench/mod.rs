//! What is measured, for the command line's `bench` and for other benchmarks: the shapes, the work of each stage with its cost, on the
//! CPU and on a device, and the machine's ceilings.
//!
//! The shapes run what PyTorch's published form runs: ReLU gate and experts, E = 10, K = 3, C = 47, x subtracted, no renormalising,
//! every row needed; backward gives dx and all parameter gradients.

mod device;
mod device_layer;
mod device_loss;
mod input;
mod layer;
mod loss;
mod loss_input;
mod machine;
#[cfg(feature = "model")]
mod step;
mod timing;

#[cfg(feature = "model")]
pub use crate::train::peak_memory;
pub use device_layer::DeviceLayer;
pub use device_loss::DeviceLoss;
pub use layer::LayerWork;
pub use loss::LossWork;
pub use machine::{Ceilings, cpu_name, instruction_sets};
#[cfg(feature = "model")]
pub use step::StepWork;
pub use timing::{Measurement, Times, measure};

use crate::config::{Capacity, MoeConfig};
use crate::error::{Error, Result};
use std::str::FromStr;

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
    /// Count, mean and variance of each group's columns.
    Moments,
    /// Cross entropy and correlations of the logits.
    Contrast,
    /// Distances between the batch and each group.
    Transport,
    /// The whole layer.
    Layer,
    /// The whole loss.
    Fol,
    /// A model's training step: towers and loss, then every gradient.
    Step,
    /// What the optimiser does with the gradients.
    Adam,
}

impl Stage {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Gate => "gate",
            Stage::Route => "route",
            Stage::Experts => "experts",
            Stage::Combine => "combine",
            Stage::Moments => "moments",
            Stage::Contrast => "contrast",
            Stage::Transport => "transport",
            Stage::Layer => "layer",
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

/// How full the experts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Routing is even, so that every expert is as full as it can be: P = B·E·min(C, T·K/E).
    Even,
    /// The gate is as PyTorch initialises it: a third of the chosen pairs find their expert full.
    Fresh,
    /// Even routing, but only the first row of each sample is needed.
    Pruned,
    /// Every row has one choice, the same expert, which takes them all: P = N.
    Skewed,
}

/// One of the shapes that are measured.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its name on the command line.
    pub name: String,
    /// T.
    pub tokens: usize,
    /// The layer.
    pub config: MoeConfig,
    /// How full its experts are.
    pub fill: Fill,
}

/// Name, T and D: the two towers of CLIP's ViT-B/16 and ViT-L/14.
const SHAPES: [(&str, usize, usize); 4] =
    [("vit-b16-image", 197, 768), ("vit-b16-text", 77, 512), ("vit-l14-image", 257, 1024), ("vit-l14-text", 77, 768)];

impl FromStr for Shape {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let suffixes = [("-fresh", Fill::Fresh), ("-pruned", Fill::Pruned), ("-skewed", Fill::Skewed)];
        let ending = suffixes.into_iter().find_map(|(suffix, fill)| Some((name.strip_suffix(suffix)?, fill)));
        let (base, fill) = ending.unwrap_or((name, Fill::Even));
        let known = SHAPES.into_iter().find(|shape| shape.0 == base);
        let names =
            "vit-b16-image, vit-b16-text, vit-l14-image or vit-l14-text, with -fresh, -pruned or -skewed behind it or nothing";
        let (_, tokens, width) = known.ok_or_else(|| Error::config("the shape", names, name))?;
        let mut config = MoeConfig::token_authors(width);
        if fill == Fill::Skewed {
            (config.top_k, config.capacity) = (1, Capacity::None);
        }
        Ok(Self { name: name.to_owned(), tokens, config, fill })
    }
}
