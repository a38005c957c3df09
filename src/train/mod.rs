//! Training and evaluation: published models beside each other on one data set.
//!
//! Seeds decide everything: parameters, the order of samples, and what a sample shows in each epoch. So a run that was killed and
//! goes on gives the same bytes as one that was not; with another number of threads, candle's matrix products round otherwise.
//! So do those of another kind of device: a run may go on there, but bytes are equal on one kind of device only.

mod adam;
mod cost;
mod examples;
mod folder;
mod groups;
mod log;
mod objective;
mod run;
mod saved;
mod settings;
mod start;
mod summary;
mod table;
mod texts;
mod trainer;

#[cfg(feature = "cli")]
pub(crate) use adam::Adam;
pub use adam::AdamConfig;
pub use cost::Cost;
#[cfg(feature = "cli")]
pub use cost::peak_memory;
pub(crate) use examples::{Examples, View};
pub use log::Epoch;
pub use objective::{ByGroup, GroupTerms, Terms};
pub use run::{Outcome, Run, Source, Trained};
pub use saved::{Card, SavedModel};
pub use settings::{
    Arch, AttributeWeight, CapacityTokens, DataSettings, DistanceKind, GroupSource, LongNotes, LossSettings, ModelSettings,
    Module, Precision, Preset, Schedule, SelectBy, SelectSplit, Settings, TextSource, TrainingSettings,
};
pub use start::{Start, StartTerm};
pub use summary::{Figure, Summary};
pub use table::comparison;
pub(crate) use texts::PROMPTS;
