//! Where a model's mixtures send the samples of each group.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is in `routing.json`. A plain CLIP has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// By name: `vision_token`, `text_token`, `vision_feature`, `text_feature`.
    pub mixtures: BTreeMap<String, MixtureRouting>,
}

/// Where one mixture sends what it is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MixtureRouting {
    /// E.
    pub experts: usize,
    /// What it was given: `images`, `notes` (a sample without one has its prompt) or `prompts` (of the sample's class).
    pub input: String,
    /// Over all samples.
    pub all: Load,
    /// Over the samples of each group, by the attribute's and the group's name.
    pub attributes: BTreeMap<String, BTreeMap<String, Load>>,
}

/// How a mixture treats a set of samples. Its rows are all tokens of an image, a text's tokens up to its end token, or, in a
/// feature mixture, the one feature of a sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// How many samples.
    pub samples: usize,
    /// `[E]` each expert's share of the kept pairs of a row and an expert; the same for all in a mixture that keeps every pair.
    pub load: Vec<f64>,
    /// `[E]` each expert's share of the final weights' sum.
    pub importance: Vec<f64>,
    /// The share of chosen pairs that capacity dropped; none without rows.
    pub dropped: Option<f64>,
    /// The mean entropy of a row's probabilities, in nats: from 0 to ln E. None without rows.
    pub entropy: Option<f64>,
    /// `[E]` the unbiased variance over the rows of each expert's final weights, pairs that were not kept counting 0.
    pub dispersion: Vec<f64>,
}
