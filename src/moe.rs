//! The layer: gate, route, experts, combine; and back.

use crate::config::MoeConfig;
use crate::device::Device;
use crate::dtype::Element;
use crate::error::{Error, Result, expect_shape, product};
use crate::gpu::driver::Driver;
use crate::parameters::Parameters;
use crate::{cpu, gpu};
use std::sync::Arc;

/// The order of the rows of x. The arrays of N rows that a layer reads and writes all have the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[T, B, ·]`: row = t·B + b.
    TokensFirst,
    /// `[B, T, ·]`: row = b·T + t.
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
    /// x `[T, B, D]` or `[B, T, D]`.
    pub x: &'a [T],
    /// T.
    pub tokens: usize,
    /// B.
    pub samples: usize,
    /// The order of the rows.
    pub layout: Layout,
    /// `[N]`: false leaves a row out of routing (padding): its weights are 0, and it competes for no expert's capacity. What is not
    /// routed, the shared expert and the subtraction of x, it still gets.
    pub row_mask: Option<&'a [bool]>,
    /// The rows whose output is needed, ascending; none: all. Routing, weights and their gradients still go over all rows,
    /// but experts run on these alone; y of the others is 0, and dy there is not read. Exact where nothing reads those rows.
    pub rows_needed: Option<&'a [usize]>,
}

impl<'a, T> MoeInput<'a, T> {
    /// All rows of x `[T, B, D]` or `[B, T, D]`.
    pub fn new(x: &'a [T], tokens: usize, samples: usize, layout: Layout) -> Self {
        Self { x, tokens, samples, layout, row_mask: None, rows_needed: None }
    }

    /// N.
    pub fn rows(&self) -> usize {
        self.tokens * self.samples
    }

    /// Whether a row takes part in routing.
    pub(crate) fn is_routed(&self, row: usize) -> bool {
        self.row_mask.is_none_or(|mask| mask[row])
    }

    /// Whether a row's output is needed.
    pub(crate) fn is_needed(&self, row: usize) -> bool {
        self.rows_needed.is_none_or(|rows| rows.binary_search(&row).is_ok())
    }

    /// x of a row `[D]`.
    pub(crate) fn row(&self, row: usize, width: usize) -> &'a [T] {
        &self.x[row * width..][..width]
    }

    pub(crate) fn check(&self, config: &MoeConfig) -> Result<()> {
        product("x", &[self.tokens, self.samples, config.width.max(config.experts.count + config.top_k)])?;
        let rows = self.rows();
        if rows.checked_mul(config.top_k + 1).is_none_or(|pairs| pairs >= NO_PAIR as usize) {
            return Err(Error::config("the number of (row, expert) pairs", "below 2^32 - 1", rows.saturating_mul(config.top_k)));
        }
        expect_shape("x", &[self.tokens, self.samples, config.width], self.x.len())?;
        if let Some(mask) = self.row_mask {
            expect_shape("the row mask", &[self.tokens, self.samples], mask.len())?;
        }
        let Some(needed) = self.rows_needed else { return Ok(()) };
        let bad = (0..needed.len()).find(|&i| needed[i] >= rows || (i > 0 && needed[i] <= needed[i - 1]));
        let expected = || format!("ascending, each below {rows}");
        bad.map_or(Ok(()), |i| {
            Err(Error::Value { what: "the rows needed", expected: expected(), index: i, got: needed[i].to_string() })
        })
    }
}

/// What the gate and routing decided. Arrays are reused from call to call. `W` is f32, or f64 in an f64 layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing<W> {
    /// `[N, H]` the gate's hidden layer before its activation; empty for a linear gate.
    pub hidden: Vec<W>,
    /// `[N, E]`.
    pub logits: Vec<W>,
    /// `[N, E]`, softmax of the logits.
    pub probabilities: Vec<W>,
    /// `[N, K]` the experts that a row chose, the likeliest first; ties go to the lowest expert.
    pub chosen: Vec<u32>,
    /// `[N, E]` the final weights: 0 where a pair was not chosen, or chosen and dropped by capacity.
    pub weights: Vec<W>,
    /// `[E + 1]` where each expert's pairs begin in the pair list; the shared expert is not in it.
    pub expert_offsets: Vec<usize>,
    /// `[P]` each kept pair's row, ascending within an expert. With rows needed: those alone.
    pub pair_row: Vec<u32>,
    /// `[P]` its weight.
    pub pair_weight: Vec<W>,
    /// `[N, K]` the pair of a row's k-th choice, or [`NO_PAIR`].
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
    pub(crate) routing: Routing<T::Wide>,
    /// `[P, F]` the experts' inner layer before its activation, pairs in list order; then the shared expert's rows.
    pub(crate) inner: Vec<T>,
    /// `[P, F]` the same of the gating map; empty unless the experts are gated.
    pub(crate) glu: Vec<T>,
}

impl<T: Element> MoeState<T> {
    /// What the gate and routing decided.
    pub fn routing(&self) -> &Routing<T::Wide> {
        &self.routing
    }

    /// Checks that a forward pass of this layer on this input left it.
    fn check(&self, config: &MoeConfig, input: &MoeInput<'_, T>) -> Result<()> {
        let (rows, routing) = (input.rows(), &self.routing);
        let needed = input.rows_needed.map_or(rows, <[usize]>::len);
        let shared = if config.shared_expert { needed } else { 0 };
        let inner = (routing.pairs() + shared) * config.experts.width;
        expect_shape("the state's weights", &[rows, config.experts.count], routing.weights.len())?;
        expect_shape("the state's pairs", &[rows, config.top_k], routing.row_pairs.len())?;
        expect_shape("the state's hidden layer", &[rows, config.gate.hidden.map_or(0, |h| h.width)], routing.hidden.len())?;
        expect_shape("the state's pair offsets", &[config.experts.count + 1], routing.expert_offsets.len())?;
        expect_shape("the state's inner layer", &[inner], self.inner.len())?;
        expect_shape("the state's gating map", &[if config.experts.gated { inner } else { 0 }], self.glu.len())
    }
}

/// The gradients that come from behind a layer.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a, T: Element> {
    /// Like x: on y.
    pub dy: &'a [T],
    /// `[N, E]`: on the final weights (a loss may read them). Reaches kept pairs only.
    pub dweights: Option<&'a [T::Wide]>,
    /// `[N, E]`: on the gate's probabilities.
    pub dprobabilities: Option<&'a [T::Wide]>,
    /// `[N, E]`: on the gate's logits.
    pub dlogits: Option<&'a [T::Wide]>,
}

impl<'a, T: Element> Upstream<'a, T> {
    /// A gradient on y alone.
    pub fn new(dy: &'a [T]) -> Self {
        Self { dy, dweights: None, dprobabilities: None, dlogits: None }
    }

    pub(crate) fn check(&self, config: &MoeConfig, input: &MoeInput<'_, T>) -> Result<()> {
        expect_shape("dy", &[input.tokens, input.samples, config.width], self.dy.len())?;
        let optional = [("dweights", self.dweights), ("dprobabilities", self.dprobabilities), ("dlogits", self.dlogits)];
        optional
            .into_iter()
            .filter_map(|(what, g)| Some((what, g?)))
            .try_for_each(|(what, g)| expect_shape(what, &[input.tokens, input.samples, config.experts.count], g.len()))
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
    device: Device,
}

impl Moe {
    /// A layer of this configuration, on the CPU.
    ///
    /// # Errors
    /// As [`MoeConfig::check`].
    pub fn new(config: MoeConfig) -> Result<Self> {
        Self::on(config, Device::cpu())
    }

    /// A layer of this configuration on that device. What it takes and gives is the host's all the same: [`gpu::moe`] is for who has it
    /// in a GPU's memory. A state that one device left is good on another.
    ///
    /// # Errors
    /// As [`MoeConfig::check`].
    pub fn on(config: MoeConfig, device: Device) -> Result<Self> {
        config.check()?;
        Ok(Self { config, device })
    }

    /// Its configuration.
    pub fn config(&self) -> &MoeConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
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
        let saved = (&mut state.inner, &mut state.glu);
        self.run_forward(parameters, input, y, &mut state.routing, Some(saved))
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
        self.run_forward(parameters, input, y, routing, None)
    }

    /// The gradients of a forward pass: of x into `dx`, and of every parameter into `gradients`, in `G` (the parameters' dtype, or
    /// f32), accumulated wide and rounded once. An expert without rows gets zeros.
    ///
    /// `parameters`, `input` and `state` as the forward pass had and left them.
    ///
    /// # Errors
    /// When a buffer's shape disagrees with the layer, the input or the state.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of the caller's, or what a framework hands over as one")]
    pub fn backward<T: Element, G: Element>(
        &self,
        parameters: &Parameters<&[T]>,
        input: &MoeInput<'_, T>,
        state: &MoeState<T>,
        upstream: &Upstream<'_, T>,
        dx: &mut [T],
        gradients: &mut Parameters<&mut [G]>,
        mode: GradientMode,
    ) -> Result<()> {
        self.check(parameters, input, dx)?;
        upstream.check(&self.config, input)?;
        gradients.check(&self.config)?;
        state.check(&self.config, input)?;
        match self.gpu(input) {
            None => cpu::moe_backward(&self.config, parameters, input, state, upstream, dx, gradients, mode),
            Some(gpu) => gpu::moe::backward(gpu, &self.config, parameters, input, state, upstream, dx, gradients, mode),
        }
    }

    fn run_forward<T: Element>(
        &self,
        parameters: &Parameters<&[T]>,
        input: &MoeInput<'_, T>,
        y: &mut [T],
        routing: &mut Routing<T::Wide>,
        saved: Option<(&mut Vec<T>, &mut Vec<T>)>,
    ) -> Result<()> {
        self.check(parameters, input, y)?;
        match self.gpu(input) {
            None => cpu::moe_forward(&self.config, parameters, input, y, routing, saved),
            Some(gpu) => gpu::moe::forward(gpu, &self.config, parameters, input, y, routing, saved),
        }
    }

    /// What to launch on; none: the CPU, also for no rows at all, of which there is nothing to launch.
    fn gpu<T>(&self, input: &MoeInput<'_, T>) -> Option<&Arc<dyn Driver>> {
        self.device.driver().filter(|_| input.rows() > 0)
    }

    /// Checks what all passes take; `like_x` is y or dx.
    fn check<T: Element>(&self, parameters: &Parameters<&[T]>, input: &MoeInput<'_, T>, like_x: &[T]) -> Result<()> {
        parameters.check(&self.config)?;
        input.check(&self.config)?;
        expect_shape("y or dx", &[input.tokens, input.samples, self.config.width], like_x.len())
    }
}
