//! Training and evaluation: plain CLIP and Fair-MoE side by side on one data set.
//!
//! Seeds decide everything: parameters, the order of samples, and what a sample shows in each epoch. So a run that was killed and
//! goes on gives the same bytes as one that was not; with another number of threads, candle's matrix products round otherwise.

mod adam;
mod evaluate;
mod examples;
mod run;
mod saved;
mod settings;
mod table;
mod texts;
mod trainer;

pub use adam::AdamConfig;
pub use evaluate::evaluate;
pub use run::{Outcome, Run, Source};
pub use saved::{Card, Fair, SavedModel};
pub use settings::{Arch, Settings, TextSource};
pub use table::comparison;
