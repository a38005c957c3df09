//! Fair mixtures of experts: the layer and the loss of Fair-MoE (arXiv 2502.06094, MICCAI 2025), forward and backward.
//!
//! A model can be right on the whole and wrong for one group of people. Fair-MoE's answer has two parts: [`Moe`], a mixture of experts
//! that filters what it is given, each expert taking in each sample the rows that it weighs most; and [`Fol`], a loss that pulls the
//! groups together in what the model says (transport) and in the dispersion of its gates (variance).
//!
//! Both are plain functions over slices that the caller owns. Data goes one way, and back in the opposite order:
//!
//! | stage | forward | backward |
//! |---|---|---|
//! | `gate` | x `[N, D]` -> logits, probabilities `[N, E]`, chosen `[N, K]` | through softmax and the gate's network |
//! | `route` | capacity by weight in each (sample, expert); the list of P kept pairs; weights `[N, E]` | the masks |
//! | `experts` | each pair's expert, up and down | dX, and every expert's gradients |
//! | `combine` | gather-and-sum: each row written once | gather-and-sum of dX |
//! | `moments` | group-wise count, mean and variance | dx |
//! | `contrast` | CLIP's cross entropy, and the samples' correlation | dlogits |
//! | `transport` | the distance of two 1-D sample sets, exact or by Sinkhorn | dx |
//!
//! Letters mean the same everywhere: T tokens in a sample, B samples, N = T·B rows, D model width, F expert width, H gate hidden width,
//! E experts, K top-k, C capacity, P kept pairs, G groups.
//!
//! The [`mod@reference`] is the specification as code: plain loops in f64. The fast backend is tested against it, and both against
//! recorded cases of an independent PyTorch statement.

mod activation;
pub mod check;
pub mod config;
mod cpu;
mod device;
mod dtype;
mod error;
mod fol;
pub mod gpu;
mod moe;
mod parameters;
pub mod reference;

#[cfg(any(feature = "cli", feature = "model"))]
pub mod files;

#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "candle")]
pub mod candle;
#[cfg(feature = "cli")]
pub mod case;
#[cfg(feature = "model")]
pub mod data;
#[cfg(feature = "model")]
pub mod eval;
#[cfg(feature = "model")]
pub mod metrics;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "model")]
pub mod report;
#[cfg(feature = "model")]
pub mod train;

pub use config::{Activation, Capacity, CapacityScope, Experts, Gate, GateHidden, MoeConfig};
pub use cpu::{contrast, moments, transport};
pub use device::Device;
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use fol::{
    Correlation, Dispersion, Distance, Fol, FolBatch, FolConfig, FolGradients, FolGroup, FolState, FolTerms, GateWeights, Groups,
    Normalise,
};
pub use moe::{GradientMode, Layout, Moe, MoeInput, MoeState, NO_PAIR, Routing, Upstream};
pub use parameters::{Param, Parameters, flat_len};

/// The README's program, so that it is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
