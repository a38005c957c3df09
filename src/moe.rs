//! The layer: gate, route, experts, combine; and back.

use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::{Error, Result, expect_shape, product};
use crate::parameters::Parameters;

/// The order of the rows of x. The arrays of N rows that a layer reads and writes all have the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// [T, B, ·]: row = t·B + b.
    TokensFirst,
    /// [B, T, ·]: row = b·T + t.
    SamplesFirst,
}

impl Layout {
    /// How far apart, in rows, two tokens of a sample are, and two samples.
    pub fn strides(self, tokens: usize, samples: usize) -> (usize, usize) {
        match self {
            Layout::TokensFirst => (samples, 1),
            Layout::SamplesFirst => (1, tokens),
        }
    }
}

/// What a layer is given: N = T·B rows of width D.
#[derive(Clone, Copy, Debug)]
pub struct MoeInput<'a, T> {
    /// x [T, B, D] or [B, T, D].
    pub x: &'a [T],
    /// T.
    pub tokens: usize,
    /// B.
    pub samples: usize,
    /// The order of the rows.
    pub layout: Layout,
    /// [N]: false leaves a row out of routing (padding): it gets no expert and competes for none.
    pub row_mask: Option<&'a [bool]>,
    /// The rows whose output is needed, ascending; none: all. Routing, weights and their gradients still go over all rows,
    /// but experts run on these alone; y of the others is 0, and dy there is not read. Exact where nothing reads those rows.
    pub rows_needed: Option<&'a [usize]>,
}

impl<'a, T> MoeInput<'a, T> {
    /// All rows of x [T, B, D] or [B, T, D].
    pub fn new(x: &'a [T], tokens: usize, samples: usize, layout: Layout) -> Self {
        Self { x, tokens, samples, layout, row_mask: None, rows_needed: None }
    }

    /// N.
    pub fn rows(&self) -> usize {
        self.tokens * self.samples
    }
}

/// What the gate and routing decided. Arrays are reused from call to call. `W` is f32, or f64 in an f64 layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing<W> {
    /// [N, H] the gate's hidden layer before its activation; empty for a linear gate.
    pub hidden: Vec<W>,
    /// [N, E].
    pub logits: Vec<W>,
    /// [N, E], softmax of the logits.
    pub probabilities: Vec<W>,
    /// [N, K] the experts that a row chose, the likeliest first; ties go to the lowest expert.
    pub chosen: Vec<u32>,
    /// [N, E] the final weights: 0 where a pair was not chosen, or chosen and dropped by capacity.
    pub weights: Vec<W>,
    /// [E + 1] where each expert's pairs begin in the pair list; the shared expert is not in it.
    pub expert_offsets: Vec<usize>,
    /// [P] each kept pair's row, ascending within an expert. With rows needed: those alone.
    pub pair_row: Vec<u32>,
    /// [P] its weight.
    pub pair_weight: Vec<W>,
    /// [N, K] the pair of a row's k-th choice, or [`NO_PAIR`].
    pub row_pairs: Vec<u32>,
}

/// Stands in [`Routing::row_pairs`] for a choice that capacity dropped, or whose row is not needed.
pub const NO_PAIR: u32 = u32::MAX;

impl<W> Routing<W> {
    /// P, the number of kept pairs.
    pub fn pairs(&self) -> usize {
        self.pair_row.len()
    }
}

/// What [`Moe::forward`] keeps for [`Moe::backward`], beside x itself: the routing, and one P x F tensor (two for gated experts).
/// Owned by the caller and reused: buffers only ever grow.
#[derive(Clone, Debug, Default)]
pub struct MoeState<T: Element> {
    /// What the gate and routing decided.
    pub routing: Routing<T::Wide>,
    /// [P, F] the experts' inner layer before its activation, pairs in list order; then the shared expert's rows.
    pub(crate) inner: Vec<T>,
    /// [P, F] the same of the gating map; empty unless the experts are gated.
    pub(crate) glu: Vec<T>,
}

/// The gradients that come from behind a layer.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a, T: Element> {
    /// Like x: on y.
    pub dy: &'a [T],
    /// [N, E]: on the final weights (a loss may read them). Reaches kept pairs only.
    pub dweights: Option<&'a [T::Wide]>,
    /// [N, E]: on the gate's probabilities.
    pub dprobabilities: Option<&'a [T::Wide]>,
    /// [N, E]: on the gate's logits.
    pub dlogits: Option<&'a [T::Wide]>,
}

impl<'a, T: Element> Upstream<'a, T> {
    /// A gradient on y alone.
    pub fn new(dy: &'a [T]) -> Self {
        Self { dy, dweights: None, dprobabilities: None, dlogits: None }
    }
}

/// What to do with what a gradient buffer already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientMode {
    /// Forget it.
    Overwrite,
    /// Add to it.
    Accumulate,
}

/// The layer. It holds no parameters and no state: those are the caller's.
#[derive(Clone, Debug)]
pub struct Moe {
    config: MoeConfig,
}

impl Moe {
    /// A layer of this configuration.
    ///
    /// # Errors
    /// As [`MoeConfig::check`].
    pub fn new(config: MoeConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { config })
    }

    /// Its configuration.
    pub fn config(&self) -> &MoeConfig {
        &self.config
    }

    /// y = Σ over a row's kept pairs of weight · expert(x), plus the shared expert, minus x where the layer says so; and what
    /// [`Moe::backward`] needs, into `state`.
    ///
    /// y: like x. NaN in a row of x stays in that row, and is never chosen by an expert before a number.
    ///
    /// # Errors
    /// When a buffer's shape disagrees with the layer or the input.
    pub fn forward<T: Element>(
        &self,
        parameters: &Parameters<&[T]>,
        input: &MoeInput<'_, T>,
        y: &mut [T],
        state: &mut MoeState<T>,
    ) -> Result<()> {
        let _ = (parameters, input, y, state);
        Err(Error::Refused("not there yet".into()))
    }

    /// [`Moe::forward`] that saves nothing for a backward pass; what was routed where comes back in `routing`.
    ///
    /// # Errors
    /// As [`Moe::forward`].
    pub fn infer<T: Element>(
        &self,
        parameters: &Parameters<&[T]>,
        input: &MoeInput<'_, T>,
        y: &mut [T],
        routing: &mut Routing<T::Wide>,
    ) -> Result<()> {
        let _ = (parameters, input, y, routing);
        Err(Error::Refused("not there yet".into()))
    }

    /// The gradients of a forward pass: of x into `dx`, and of every parameter into `gradients`, in `G` (the parameters' dtype, or
    /// f32), accumulated wide and rounded once. An expert without rows gets zeros.
    ///
    /// `parameters`, `input` and `state` as the forward pass had and left them.
    ///
    /// # Errors
    /// When a buffer's shape disagrees with the layer, the input or the state.
    pub fn backward<T: Element, G: Element>(
        &self,
        parameters: &Parameters<&[T]>,
        input: &MoeInput<'_, T>,
        state: &mut MoeState<T>,
        upstream: &Upstream<'_, T>,
        dx: &mut [T],
        gradients: &mut Parameters<&mut [G]>,
        mode: GradientMode,
    ) -> Result<()> {
        let _ = (parameters, input, state, upstream, dx, gradients, mode);
        Err(Error::Refused("not there yet".into()))
    }
}
