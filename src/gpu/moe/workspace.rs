//! What a pass needs for itself.

use super::Sizes;
use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::carve::Carve;
use crate::gpu::driver::{Facts, Pointer};
use crate::gpu::experts::splits::Room;
use crate::gpu::plan::{Plan, Tile};
use crate::gpu::{experts, gate, route};

/// What the experts' split product needs; no addresses where it is not split.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SplitSpace {
    pub parts: Pointer,
    pub arrived: Pointer,
    pub counters: usize,
}

impl SplitSpace {
    fn take(carve: &mut Carve, tile: Tile, config: &MoeConfig, sizes: &Sizes) -> Result<Self> {
        let experts = config.experts.count + usize::from(config.shared_expert);
        let Room { parts, counters } = Room::new(tile, sizes.pairs, experts, config.width)?;
        if counters == 0 {
            return Ok(Self::default());
        }
        let parts = carve.take("the parts of split tiles", &[parts], 4)?;
        Ok(Self { parts, arrived: carve.take("the counters of split tiles", &[counters], 4)?, counters })
    }
}

/// A forward pass's own buffers.
pub(super) struct ForwardSpace {
    pub kept: Pointer,
    pub counts: Pointer,
    pub counters: Pointer,
    pub hidden: Pointer,
    pub out: Pointer,
    pub down: SplitSpace,
}

pub(super) fn forward_space(
    facts: &Facts,
    config: &MoeConfig,
    dtype: DType,
    sizes: &Sizes,
    block: Pointer,
) -> Result<(ForwardSpace, usize)> {
    let (experts, bytes) = (config.experts.count, dtype.bytes());
    let plan = Plan::new(facts, config, dtype, sizes);
    let mut carve = Carve::new(block);
    let space = ForwardSpace {
        kept: carve.take("the kept choices", &[sizes.rows, experts], 1)?,
        counts: carve.take("the counts of pairs", &[route::counts_len(facts.multiprocessors, experts)?], 4)?,
        counters: carve.take("the counters", &[16], 4)?,
        hidden: carve.take("the experts' hidden layer", &[sizes.pairs, config.experts.width], bytes)?,
        out: carve.take("the experts' outputs", &[sizes.pairs, config.width], bytes)?,
        down: SplitSpace::take(&mut carve, plan.down, config, sizes)?,
    };
    Ok((space, carve.bytes()))
}

/// The workspace of a forward pass on T·B rows of which `needed` are needed.
///
/// # Errors
/// As [`Sizes::new`].
pub fn forward_workspace_bytes(
    facts: &Facts,
    config: &MoeConfig,
    dtype: DType,
    tokens: usize,
    samples: usize,
    needed: usize,
) -> Result<usize> {
    let sizes = Sizes::new(config, tokens, samples, needed)?;
    forward_space(facts, config, dtype, &sizes, 0).map(|(_, bytes)| bytes)
}

/// A backward pass's own buffers.
pub(super) struct BackwardSpace {
    /// How the gradients of the gate's parameters are cut into work.
    pub gate: gate::Cut,
    pub dinner: Pointer,
    pub dglu: Pointer,
    pub weighted: Pointer,
    pub dweight_parts: Pointer,
    pub dpairs: Pointer,
    pub dx: SplitSpace,
    pub dlogits: Pointer,
    pub dhidden: Pointer,
    pub dgate: Pointer,
    pub gate_parts: Pointer,
    pub gate_counters: Pointer,
}

pub(super) fn backward_space(
    facts: &Facts,
    config: &MoeConfig,
    dtype: DType,
    sizes: &Sizes,
    block: Pointer,
) -> Result<(BackwardSpace, usize)> {
    let (bytes, inner) = (dtype.bytes(), [sizes.pairs, config.experts.width]);
    let hidden = config.gate.hidden.map_or(0, |h| h.width);
    let gate = gate::Cut::new(facts.multiprocessors, dtype, sizes.rows, config.width, hidden, config.experts.count)?;
    let plan = Plan::new(facts, config, dtype, sizes);
    // Of whichever tile.
    let most_parts = config.experts.width.div_ceil(Tile::FEWEST_COLUMNS);
    let mut carve = Carve::new(block);
    let space = BackwardSpace {
        gate,
        dinner: carve.take("the gradient on the inner layer", &inner, bytes)?,
        dglu: if config.experts.gated { carve.take("the gradient on the gating map", &inner, bytes)? } else { 0 },
        weighted: if experts::folds(config, dtype) { 0 } else { carve.take("the weighted hidden layer", &inner, bytes)? },
        dweight_parts: carve.take("the pairs' gradients", &[sizes.pairs, most_parts], 4)?,
        dpairs: carve.take("the gradient on each pair's x", &[sizes.pairs, config.width], bytes)?,
        dx: SplitSpace::take(&mut carve, plan.dx, config, sizes)?,
        dlogits: carve.take("the gradient on the logits", &[sizes.rows, config.experts.count], 4)?,
        dhidden: carve.take("the gradient on the gate's hidden layer", &[sizes.rows, hidden], 4)?,
        dgate: carve.take("the gate's gradient on x", &[sizes.rows, config.width], bytes)?,
        gate_parts: carve.take("the parts of the gate's gradients", &[gate.parts_len()?], 4)?,
        gate_counters: carve.take("the counters", &[gate.tiles], 4)?,
    };
    Ok((space, carve.bytes()))
}

/// The workspace of a backward pass on T·B rows of which `needed` are needed.
///
/// # Errors
/// As [`Sizes::new`].
pub fn backward_workspace_bytes(
    facts: &Facts,
    config: &MoeConfig,
    dtype: DType,
    tokens: usize,
    samples: usize,
    needed: usize,
) -> Result<usize> {
    let sizes = Sizes::new(config, tokens, samples, needed)?;
    backward_space(facts, config, dtype, &sizes, 0).map(|(_, bytes)| bytes)
}
