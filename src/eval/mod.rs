//! Evaluation of a model: what it says of each sample, how its mixtures route, and how runs compare.

mod routing;

pub use routing::{Load, MixtureRouting, Routing};
