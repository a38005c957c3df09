//! The reference model: a two-tower CLIP on candle, and the same with Fair-MoE's four mixtures.
//!
//! Parameters are named as in Hugging Face's `CLIPModel`. In Fair-MoE the last block's MLP of each tower is a token mixture
//! (`vision_model.encoder.layers.L.mlp.gate.fc1.weight`, `...mlp.experts.fc1.weight`, ...), and each projected feature passes a
//! feature mixture (`vision_feature_moe.*`, `text_feature_moe.*`).

mod checkpoint;
mod clip;
mod config;
mod file;
mod gates;
mod mixtures;
mod ops;
mod tower;
mod weights;

pub use checkpoint::{Checkpoint, ExpertsFrom, Instead, LoadReport, WrongShape};
pub use clip::{Clip, ClipOutput, Encoded};
pub use config::{ClipConfig, Preset, TowerConfig};
pub use file::{read_tensors, write_tensors};
pub use gates::{GateChoice, GateName, GateRows, GateScores, GateValue, Gates};
pub use mixtures::{Mixtures, Subtract};
pub use weights::Weights;
pub(crate) use weights::normal;
