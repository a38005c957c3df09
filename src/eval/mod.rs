//! Evaluation of a model: what it says of each sample, how its mixtures route, and how runs compare.

mod compare;
mod head;
mod linear_probe;
mod measure;
mod predictions;
mod routing;
mod tally;
mod zero_shot;

pub(crate) use compare::mean_and_sd;
pub use compare::{Compared, Comparison, Difference, Figure, compare};
pub use head::{Head, HeadConfig};
pub use linear_probe::{Features, LinearProbe};
pub use measure::evaluate;
pub(crate) use measure::{measure, validate};
pub use predictions::Predictions;
pub use routing::{Load, MixtureRouting, Routing};

/// Samples encoded at a time.
const BATCH: usize = 64;
