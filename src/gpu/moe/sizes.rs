//! How large a layer's buffers are, from what the host knows before any row is routed.

use crate::config::{CapacityScope, MoeConfig};
use crate::dtype::DType;
use crate::error::{Error, Result, all, product};
use crate::gpu::driver::Pointer;
use crate::gpu::limits::most_tiles;
use crate::gpu::plan::Tile;

/// The counts that a layer's kernels go by. Each fits in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// N.
    pub rows: usize,
    /// Pairs of routed experts, at most: min(rows needed · K, B·E·min(C, T)), or E·C for a capacity of the batch.
    pub routed_pairs: usize,
    /// Those, and the shared expert's.
    pub pairs: usize,
    /// Tiles of pairs, at most, whatever the tile.
    pub tiles: usize,
}

impl Sizes {
    /// Of a layer on T·B rows, of which `needed` are needed.
    pub fn new(config: &MoeConfig, tokens: usize, samples: usize, needed: usize) -> Result<Self> {
        config.check()?;
        let rows = product("the rows", &[tokens, samples])?;
        if tokens == 0 || samples == 0 || needed > rows {
            return Err(Error::config(
                "the rows needed",
                format!("at most the {rows} rows, of which there is one at least"),
                needed,
            ));
        }
        let experts = config.experts.count;
        let chosen = product("the pairs", &[needed, config.top_k])?;
        let taken = match (config.capacity_of(tokens, samples)?, config.capacity_scope) {
            (None, _) => usize::MAX,
            (Some(c), CapacityScope::Sample) => samples.saturating_mul(experts).saturating_mul(c.min(tokens)),
            (Some(c), CapacityScope::Batch) => experts.saturating_mul(c),
        };
        let routed_pairs = chosen.min(taken);
        let pairs = routed_pairs + if config.shared_expert { needed } else { 0 };
        let tiles = most_tiles(pairs, experts + usize::from(config.shared_expert), Tile::FEWEST_ROWS);
        let counts = [
            ("the number of rows", rows),
            ("the number of choices", product("the choices", &[rows, config.top_k])?),
            ("the number of pairs", pairs),
            ("the number of tiles", 2 * tiles + 1),
            ("the layer's width", config.width),
            ("the experts' width", config.experts.width),
            ("the number of experts", experts + 2),
            ("the gate's hidden width", config.gate.hidden.map_or(0, |h| h.width)),
        ];
        let too_many = counts.into_iter().find(|&(_, n)| n > i32::MAX as usize);
        too_many
            .map_or(Ok(Self { rows, routed_pairs, pairs, tiles }), |(what, n)| Err(Error::config(what, "below 2^31 on a GPU", n)))
    }
}

/// One buffer of what forward leaves to backward and to a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePart {
    /// f32 `[N, H]` the gate's hidden layer before its activation.
    Hidden,
    /// f32 `[N, E]`.
    Logits,
    /// f32 `[N, E]`.
    Probabilities,
    /// i32 `[N, K]` the experts that a row chose.
    Chosen,
    /// f32 `[N, E]` the final weights.
    Weights,
    /// i32 `[N, K]` the pair of each choice; -1: none.
    RowPairs,
    /// i32 `[N]` the row's pair of the shared expert; -1: none. Only with a shared expert.
    SharedPairs,
    /// i32 `[E + 2]` where each expert's pairs begin; the shared expert's are the last.
    ExpertOffsets,
    /// i32 `[P]` a pair's row.
    PairRow,
    /// f32 `[P]` its weight.
    PairWeight,
    /// i32: the number of tiles, then (expert, first pair) of each.
    Tiles,
    /// `[P, F]` in the layer's dtype: the experts' inner layer before its activation, or what stands for it, see
    /// [`crate::gpu::experts::folds`]. Only for a backward pass.
    Inner,
    /// `[P, F]` the same of the gating map. Only for a backward pass, in gated experts.
    Glu,
}

impl StatePart {
    /// All of them.
    pub const ALL: [StatePart; 13] = {
        use StatePart::*;
        [
            Hidden,
            Logits,
            Probabilities,
            Chosen,
            Weights,
            RowPairs,
            SharedPairs,
            ExpertOffsets,
            PairRow,
            PairWeight,
            Tiles,
            Inner,
            Glu,
        ]
    };

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            StatePart::Hidden => "the state's hidden layer",
            StatePart::Logits => "the state's logits",
            StatePart::Probabilities => "the state's probabilities",
            StatePart::Chosen => "the state's chosen experts",
            StatePart::Weights => "the state's weights",
            StatePart::RowPairs => "the state's pairs of each row",
            StatePart::SharedPairs => "the state's pairs of the shared expert",
            StatePart::ExpertOffsets => "the state's pair offsets",
            StatePart::PairRow => "the state's rows of each pair",
            StatePart::PairWeight => "the state's weights of each pair",
            StatePart::Tiles => "the state's tiles",
            StatePart::Inner => "the state's inner layer",
            StatePart::Glu => "the state's gating map",
        }
    }
}

/// One thing for each [`StatePart`]: its bytes, its address (0 where the layer has none) or its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State<S>([S; 13]);

impl<S> State<S> {
    /// Asks for each part in turn.
    pub fn try_from_fn(mut each: impl FnMut(StatePart) -> Result<S>) -> Result<Self> {
        all(StatePart::ALL.map(&mut each)).map(Self)
    }

    /// What is made of each part.
    pub fn map<R>(&self, each: impl Fn(&S) -> R) -> State<R> {
        State(self.0.each_ref().map(each))
    }
}

impl<S> std::ops::Index<StatePart> for State<S> {
    type Output = S;
    fn index(&self, part: StatePart) -> &S {
        &self.0[part as usize]
    }
}

/// The bytes of each part of a layer's state on T·B rows of which `needed` are needed; 0 for what it does not have. `saved`: whether a
/// backward pass follows.
///
/// # Errors
/// As [`Sizes::new`].
pub fn state_layout(
    config: &MoeConfig,
    dtype: DType,
    tokens: usize,
    samples: usize,
    needed: usize,
    saved: bool,
) -> Result<State<usize>> {
    let sizes = Sizes::new(config, tokens, samples, needed)?;
    let (n, e, k, f) = (sizes.rows, config.experts.count, config.top_k, config.experts.width);
    let when = |has: bool, n: usize| if has { n } else { 0 };
    State::try_from_fn(|part| {
        let shape: [usize; 2] = match part {
            StatePart::Hidden => [n, config.gate.hidden.map_or(0, |h| h.width)],
            StatePart::Logits | StatePart::Probabilities | StatePart::Weights => [n, e],
            StatePart::Chosen | StatePart::RowPairs => [n, k],
            StatePart::SharedPairs => [when(config.shared_expert, n), 1],
            StatePart::ExpertOffsets => [e + 2, 1],
            // One at least: an address of 0 would be none.
            StatePart::PairRow | StatePart::PairWeight => [sizes.pairs.max(1), 1],
            StatePart::Tiles => [1 + 2 * sizes.tiles, 1],
            StatePart::Inner => [when(saved, sizes.pairs.max(1)), f],
            StatePart::Glu => [when(saved && config.experts.gated, sizes.pairs.max(1)), f],
        };
        let element = if matches!(part, StatePart::Inner | StatePart::Glu) { dtype.bytes() } else { 4 };
        product(part.name(), &[shape[0], shape[1], element])
    })
}

/// The parts' addresses in one block of so many bytes; and those bytes, which any multiple of 256 may begin.
pub fn carve_state(layout: &State<usize>, block: Pointer) -> Result<(State<Pointer>, usize)> {
    let mut carve = crate::gpu::carve::Carve::new(block);
    let parts = State::try_from_fn(|part| match layout[part] {
        0 => Ok(0),
        bytes => carve.take(part.name(), &[bytes], 1),
    })?;
    Ok((parts, carve.bytes()))
}
