//! The shapes that are measured.

use crate::config::{Activation, Capacity, CapacityScope, Experts, Gate, MoeConfig};
use crate::error::{Error, Result};
use std::str::FromStr;

/// How full the experts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Routing is even, so that every expert is as full as it can be: P = B·E·min(C, T·K/E).
    Even,
    /// The gate is as PyTorch initialises it: a third of the chosen pairs find their expert full.
    Fresh,
    /// Even routing, but only the first row of each sample is needed: P is B·K at most.
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
    /// B, where the shape tells it: its N rows are cut into samples in any way, since nothing is counted by the sample.
    pub samples: Option<usize>,
    /// The layer.
    pub config: MoeConfig,
    /// How full its experts are.
    pub fill: Fill,
    /// Whether the probabilities are given, so that the gate is no part of what is measured.
    pub given: bool,
}

/// Name, T and D: the two towers of CLIP's ViT-B/16 and ViT-L/14.
const TOWERS: [(&str, usize, usize); 4] =
    [("vit-b16-image", 197, 768), ("vit-b16-text", 77, 512), ("vit-l14-image", 257, 1024), ("vit-l14-text", 77, 768)];

/// Name, N, D, F, E and K: layers of language models, as SonicMoE (arXiv 2512.14080) measures them.
const LANGUAGE: [(&str, [usize; 5]); 6] = [
    ("swiglu-1.4b", [40960, 768, 1024, 32, 2]),
    ("swiglu-7b", [24576, 1536, 1024, 32, 2]),
    ("swiglu-30b", [32768, 4096, 256, 256, 16]),
    ("swiglu-120b", [32768, 4096, 1024, 128, 8]),
    ("olmoe", [32768, 2048, 1024, 64, 8]),
    ("qwen3-30b", [32768, 2048, 768, 128, 8]),
];

/// B of those.
const LANGUAGE_SAMPLES: usize = 128;

impl Shape {
    /// B, where the shape does not tell it: `asked`.
    pub fn samples_or(&self, asked: usize) -> usize {
        self.samples.unwrap_or(asked)
    }

    /// How many rows are needed.
    pub(super) fn needed(&self, samples: usize) -> usize {
        if self.fill == Fill::Pruned { samples } else { self.tokens * samples }
    }

    /// One expert that takes all N = T·B rows: its products are dense ones, and its sum a copy.
    pub(super) fn dense(tokens: usize, samples: usize, width: usize) -> Self {
        let experts = Experts { activation: Activation::Relu, gated: false, ..experts(1, width) };
        let config = MoeConfig { experts, ..without_capacity(width, 1) };
        Self { name: "dense".into(), tokens, samples: Some(samples), config, fill: Fill::Even, given: true }
    }

    /// Gated experts without biases, from given probabilities, the K of a row normalised.
    fn language(name: &str, [rows, width, expert_width, count, top_k]: [usize; 5]) -> Self {
        let config = MoeConfig { experts: experts(count, expert_width), ..without_capacity(width, top_k) };
        let (tokens, samples) = (rows / LANGUAGE_SAMPLES, Some(LANGUAGE_SAMPLES));
        Self { name: name.to_owned(), tokens, samples, config, fill: Fill::Even, given: true }
    }
}

fn experts(count: usize, width: usize) -> Experts {
    Experts { count, width, activation: Activation::Silu, gated: true, bias: false }
}

fn without_capacity(width: usize, top_k: usize) -> MoeConfig {
    MoeConfig {
        width,
        gate: Gate { hidden: None, bias: false },
        experts: experts(1, width),
        top_k,
        renormalise: true,
        capacity: Capacity::None,
        capacity_scope: CapacityScope::Sample,
        shared_expert: false,
        subtract_input: false,
    }
}

impl FromStr for Shape {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        if let Some((_, sizes)) = LANGUAGE.into_iter().find(|shape| shape.0 == name) {
            return Ok(Self::language(name, sizes));
        }
        let suffixes = [("-fresh", Fill::Fresh), ("-pruned", Fill::Pruned), ("-skewed", Fill::Skewed)];
        let ending = suffixes.into_iter().find_map(|(suffix, fill)| Some((name.strip_suffix(suffix)?, fill)));
        let (base, fill) = ending.unwrap_or((name, Fill::Even));
        let known = TOWERS.into_iter().find(|shape| shape.0 == base);
        let (_, tokens, width) = known.ok_or_else(|| Error::config("the shape", names(), name))?;
        let mut config = MoeConfig::token_authors(width);
        if fill == Fill::Skewed {
            (config.top_k, config.capacity) = (1, Capacity::None);
        }
        Ok(Self { name: name.to_owned(), tokens, samples: None, config, fill, given: false })
    }
}

fn names() -> String {
    let [towers, language] = [TOWERS.map(|s| s.0).join(", "), LANGUAGE.map(|s| s.0).join(", ")];
    format!("one of {towers}, each with -fresh, -pruned or -skewed behind it or nothing, or one of {language}")
}
