//! What a layer is: every axis of [`MoeConfig`], its checks, and the presets `paper` and `authors`.

use crate::error::{Error, Result, product};
use std::{fmt, str::FromStr};

/// An activation function, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x · sigmoid(1.702 x): CLIP's.
    QuickGelu,
    /// x · Φ(x) with the exact error function.
    Gelu,
    /// x · sigmoid(x).
    Silu,
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 4] = [Activation::Relu, Activation::QuickGelu, Activation::Gelu, Activation::Silu];

    /// The name used in files: `relu`, `quick_gelu`, `gelu` or `silu`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
            Activation::Silu => "silu",
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|a| a.name() == s);
        known.ok_or_else(|| Error::config("activation", "relu, quick_gelu, gelu or silu", s))
    }
}

/// The network that scores the experts for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// Its hidden layer; none: one linear map from D to E.
    pub hidden: Option<GateHidden>,
    /// Whether its linear maps have biases.
    pub bias: bool,
}

/// The hidden layer of a two-layer gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateHidden {
    /// H, its width.
    pub width: usize,
    /// Its activation.
    pub activation: Activation,
}

/// The networks that rows are sent to; all of one shape, D -> F -> D.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// E, how many there are.
    pub count: usize,
    /// F, their inner width.
    pub width: usize,
    /// Their activation.
    pub activation: Activation,
    /// Whether the activation of a second map of x multiplies the first one's output (SwiGLU, GeGLU, ReGLU).
    pub gated: bool,
    /// Whether their linear maps have biases.
    pub bias: bool,
}

/// How many rows an expert takes at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Capacity {
    /// As many as choose it.
    None,
    /// C rows.
    Fixed(usize),
    /// ⌊rows · factor · K / E⌋ rows, at least one; `rows` are those that the capacity is counted over.
    Factor(f64),
}

/// The rows among which those of one expert compete for its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityScope {
    /// The T rows of one sample.
    Sample,
    /// All N rows.
    Batch,
}

/// What a [`crate::Moe`] is. Letters as everywhere: D width, F expert width, H gate hidden width, E experts, K top-k, C capacity.
///
/// ```
/// use fair_moe::{Capacity, MoeConfig};
/// let mut config = MoeConfig::token_paper(768);
/// assert_eq!(config.capacity_of(197, 8).unwrap(), Some(47));
/// config.capacity = Capacity::None; // each knob can be turned on its own
/// config.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    /// D.
    pub width: usize,
    /// The gate.
    pub gate: Gate,
    /// The experts.
    pub experts: Experts,
    /// K, how many experts a row chooses.
    pub top_k: usize,
    /// Whether a row's chosen weights are divided by their sum, before capacity takes rows away.
    pub renormalise: bool,
    /// How many rows an expert takes.
    pub capacity: Capacity,
    /// The rows that compete for it.
    pub capacity_scope: CapacityScope,
    /// Whether one further expert takes every row with weight 1, outside routing (Med-MoE's meta expert).
    pub shared_expert: bool,
    /// Whether x is taken off the output (the published code's "no residual").
    pub subtract_input: bool,
}

impl MoeConfig {
    /// The token mixture as the paper has it: K = 3 of E = 10 experts of F = 4D with QuickGELU, a ReLU gate of H = ⌊D/4⌋,
    /// weights raw, capacity ⌊T·0.8·K/E⌋ a sample, nothing taken off the output.
    pub fn token_paper(width: usize) -> Self {
        Self {
            width,
            gate: Gate { hidden: Some(GateHidden { width: (width / 4).max(1), activation: Activation::Relu }), bias: true },
            experts: Experts {
                count: 10,
                width: width.saturating_mul(4),
                activation: Activation::QuickGelu,
                gated: false,
                bias: true,
            },
            top_k: 3,
            renormalise: false,
            capacity: Capacity::Factor(0.8),
            capacity_scope: CapacityScope::Sample,
            shared_expert: false,
            subtract_input: false,
        }
    }

    /// The token mixture as the authors' code has it: ReLU experts, a capacity of 47 whatever T is
    /// (⌊197·0.8·3/10⌋ is written into the code), and x taken off the output.
    pub fn token_authors(width: usize) -> Self {
        let mut config = Self::token_paper(width);
        config.experts.activation = Activation::Relu;
        config.capacity = Capacity::Fixed(47);
        config.subtract_input = true;
        config
    }

    /// The feature mixture as the paper's preset has it: all of `experts` (one for each group), no capacity, a QuickGELU gate.
    pub fn feature_paper(width: usize, experts: usize) -> Self {
        let mut config = Self::token_paper(width);
        config.gate.hidden = Some(GateHidden { width: (width / 4).max(1), activation: Activation::QuickGelu });
        config.experts.count = experts;
        config.top_k = experts;
        config.capacity = Capacity::None;
        config
    }

    /// The feature mixture as the authors' code has it: [`MoeConfig::feature_paper`] with ReLU experts.
    pub fn feature_authors(width: usize, experts: usize) -> Self {
        let mut config = Self::feature_paper(width, experts);
        config.experts.activation = Activation::Relu;
        config
    }

    /// Checks that such a layer can exist.
    ///
    /// # Errors
    /// Names the first setting that is out of its range, and the range.
    pub fn check(&self) -> Result<()> {
        let at_least_one = |what, n: usize| if n >= 1 { Ok(()) } else { Err(Error::config(what, "at least 1", n)) };
        at_least_one("width", self.width)?;
        at_least_one("the number of experts", self.experts.count)?;
        at_least_one("the expert width", self.experts.width)?;
        if let Some(hidden) = self.gate.hidden {
            at_least_one("the gate's hidden width", hidden.width)?;
            product("the gate", &[hidden.width, self.width.max(self.experts.count)])?;
        }
        if self.top_k < 1 || self.top_k > self.experts.count {
            return Err(Error::config("top-k", format!("from 1 to the number of experts, {}", self.experts.count), self.top_k));
        }
        match self.capacity {
            Capacity::Fixed(c) => at_least_one("capacity", c)?,
            Capacity::Factor(f) if !(f.is_finite() && f > 0.0) => {
                return Err(Error::config("the capacity factor", "a number above 0", f));
            }
            _ => {}
        }
        if self.experts.count > u32::MAX as usize / 2 {
            return Err(Error::config("the number of experts", "below 2^31", self.experts.count));
        }
        product("the experts", &[self.experts.count, self.experts.width, self.width])?;
        product("the gate", &[self.experts.count, self.width]).map(|_| ())
    }

    /// C for T tokens of B samples, or none where nothing can be dropped.
    ///
    /// # Errors
    /// When T · B overflows.
    pub fn capacity_of(&self, tokens: usize, samples: usize) -> Result<Option<usize>> {
        let rows = match self.capacity_scope {
            CapacityScope::Sample => tokens,
            CapacityScope::Batch => product("the rows", &[tokens, samples])?,
        };
        let c = match self.capacity {
            Capacity::None => return Ok(None),
            Capacity::Fixed(c) => c,
            // In this order, as the published code multiplies: another one can round below a whole number.
            Capacity::Factor(f) => ((rows as f64 * f * self.top_k as f64 / self.experts.count as f64) as usize).max(1),
        };
        Ok((c < rows).then_some(c))
    }
}
