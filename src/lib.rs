//! Fair mixtures of experts: the layer and the loss of Fair-MoE (arXiv 2502.06094), forward and backward.

mod activation;
pub mod config;
mod cpu;
mod dtype;
mod error;
mod fol;
mod moe;
mod parameters;
pub mod reference;

#[cfg(any(feature = "cli", feature = "model"))]
pub mod files;

#[cfg(feature = "candle")]
pub mod candle;
#[cfg(feature = "model")]
pub mod data;
#[cfg(feature = "model")]
pub mod metrics;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "model")]
pub mod train;

pub use config::{Activation, Capacity, CapacityScope, Experts, Gate, GateHidden, MoeConfig};
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use fol::{
    Correlation, Dispersion, Distance, Fol, FolBatch, FolConfig, FolGradients, FolGroup, FolState, FolTerms, GateWeights, Groups,
    Normalise,
};
pub use moe::{GradientMode, Layout, Moe, MoeInput, MoeState, NO_PAIR, Routing, Upstream};
pub use parameters::{Param, Parameters, flat_len};
