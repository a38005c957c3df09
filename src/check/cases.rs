//! The table of layers that are checked.

use super::Layer;
use crate::config::{Activation, Capacity, CapacityScope, Experts, MoeConfig};
use crate::moe::Layout;

/// Every axis of the layer at least once in each of its values, with odd sizes; each with what it is about.
pub fn every_axis() -> Vec<(&'static str, Layer)> {
    let base = || {
        let mut c = MoeConfig::token_paper(13);
        c.experts.width = 21;
        c.experts.count = 5;
        c.top_k = 2;
        c
    };
    let random = |config, seed| Layer::random(config, 11, 3, Layout::TokensFirst, seed);
    let with = |change: &dyn Fn(&mut MoeConfig), seed| {
        let mut config = base();
        change(&mut config);
        random(config, seed)
    };
    let mut cases = vec![
        ("paper", with(&|_| {}, 1)),
        ("samples first", Layer { layout: Layout::SamplesFirst, ..with(&|_| {}, 2) }),
        ("linear gate", with(&|c| c.gate.hidden = None, 3)),
        ("no biases", with(&|c| (c.gate.bias, c.experts.bias) = (false, false), 4)),
        ("renormalised", with(&|c| c.renormalise = true, 5)),
        ("renormalised, capacity 1", with(&|c| (c.renormalise, c.capacity) = (true, Capacity::Fixed(1)), 6)),
        ("no capacity", with(&|c| c.capacity = Capacity::None, 7)),
        ("capacity per batch", with(&|c| c.capacity_scope = CapacityScope::Batch, 8)),
        ("shared expert", with(&|c| c.shared_expert = true, 9)),
        ("input subtracted", with(&|c| c.subtract_input = true, 10)),
        ("gated", with(&|c| (c.experts.gated, c.experts.activation) = (true, Activation::Silu), 11)),
        ("gated, shared, no biases", with(&|c| (c.experts.gated, c.shared_expert, c.experts.bias) = (true, true, false), 12)),
        ("gelu", with(&|c| c.experts.activation = Activation::Gelu, 13)),
        ("relu", with(&|c| c.experts.activation = Activation::Relu, 14)),
        ("one expert", with(&|c| (c.experts.count, c.top_k) = (1, 1), 15)),
        ("k = E", with(&|c| (c.top_k, c.capacity) = (5, Capacity::None), 16)),
        ("one token", Layer::random(base(), 1, 1, Layout::TokensFirst, 17)),
        // One column, and a seed whose gradients' terms do not cancel: of those that do, half precision keeps no digit.
        ("width 1", Layer::random(MoeConfig { width: 1, ..base() }, 7, 2, Layout::SamplesFirst, 28)),
        ("feature", Layer::random(MoeConfig::feature_paper(24, 3), 1, 9, Layout::TokensFirst, 19)),
        ("one choice, renormalised", with(&|c| (c.top_k, c.renormalise) = (1, true), 24)),
        ("many experts, some without rows", with(&|c| c.experts.count = 40, 20)),
        // Large enough that half precision is multiplied as such.
        ("a thousand pairs", large(|_| {}, 27)),
        ("a thousand pairs, gated, shared", large(|c| (c.experts.gated, c.shared_expert) = (true, true), 26)),
    ];
    let mut masked = with(&|c| (c.shared_expert, c.subtract_input) = (true, true), 21);
    masked.row_mask = Some((0..33).map(|row| row % 4 != 1).collect());
    cases.push(("row mask", masked.clone()));
    masked.rows_needed = Some(vec![0, 1, 2, 17, 32]);
    cases.push(("rows needed and masked", masked));
    cases.push(("rows needed", Layer { rows_needed: Some(vec![0, 11, 22]), layout: Layout::SamplesFirst, ..with(&|_| {}, 22) }));
    cases.push(("no row needed", Layer { rows_needed: Some(vec![]), ..with(&|_| {}, 23) }));
    cases
}

/// What a large GPU's blocks take several tiles of, each of many steps: the published layer in an image tower of ViT-B/16, of 4 samples;
/// the same with few rows that are needed; and layers of a language model's kind, one of them of few rows.
pub fn full_size() -> Vec<(&'static str, Layer)> {
    let published = Layer::random(MoeConfig::token_authors(768), 197, 4, Layout::TokensFirst, 1);
    let half = MoeConfig::token_authors(384);
    let half = MoeConfig { experts: Experts { width: 768, ..half.experts }, ..half };
    let gated = |width: usize, expert_width: usize, tokens: usize, seed: u64| {
        let mut config = MoeConfig { top_k: 2, shared_expert: true, capacity: Capacity::None, ..MoeConfig::token_paper(width) };
        config.experts = Experts { count: 4, width: expert_width, activation: Activation::Silu, gated: true, ..config.experts };
        Layer::random(config, tokens, 2, Layout::TokensFirst, seed)
    };
    vec![
        ("full size, one row of each sample needed", Layer { rows_needed: Some((0..4).collect()), ..published.clone() }),
        ("full size", published),
        // The tiles of 192 by 192, which are relu's in bf16, and enough of them for more than a round.
        ("half as wide", Layer::random(half, 197, 12, Layout::TokensFirst, 6)),
        ("full size, gated, shared", gated(768, 1024, 512, 2)),
        ("full size, gated, shared, few rows", gated(768, 1024, 64, 10)),
        ("a third as wide, gated, shared", gated(256, 512, 512, 4)),
    ]
}

fn large(change: impl Fn(&mut MoeConfig), seed: u64) -> Layer {
    let mut config = MoeConfig::token_paper(64);
    (config.experts.count, config.experts.width, config.top_k) = (4, 160, 2);
    change(&mut config);
    Layer::random(config, 300, 3, Layout::TokensFirst, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::gpu::moe::Sizes;
    use crate::gpu::plan::{CARDS, Engine, Plan, Tile};

    /// Else no check on such a card would run the kernels that its users' layers run.
    #[test]
    fn the_large_cases_meet_every_kind_of_tile_of_an_h200() {
        let facts = CARDS[0].facts();
        let plan = |layer: &Layer| {
            let needed = layer.rows_needed.as_ref().map_or(layer.tokens * layer.samples, Vec::len);
            let sizes = Sizes::new(&layer.config, layer.tokens, layer.samples, needed).unwrap();
            Plan::new(&facts, &layer.config, DType::Bf16, &sizes)
        };
        let plans: Vec<(Plan, bool)> = full_size().iter().map(|(_, layer)| (plan(layer), layer.config.experts.gated)).collect();
        let any = |gated: bool, what: &dyn Fn(&Plan) -> bool| plans.iter().any(|(plan, g)| *g == gated && what(plan));
        let split = |tile: Tile, rows: usize| tile.engine == Engine::Mma && tile.rows == rows && tile.splits > 1;
        let wgmma = |tile: Tile, columns: usize| tile.engine == Engine::Wgmma && tile.columns == columns;
        assert!(any(false, &|plan| split(plan.down, 16) && split(plan.dx, 16)), "{plans:?}");
        assert!(any(true, &|plan| split(plan.down, 64) && split(plan.dx, 64)), "{plans:?}");
        for gated in [false, true] {
            assert!(any(gated, &|plan| wgmma(plan.up, 256)) && any(gated, &|plan| wgmma(plan.dinner, 256)), "{plans:?}");
        }
        for (gated, columns) in [(true, 128), (true, 256), (false, 192)] {
            assert!(any(gated, &|plan| plan.merges() && wgmma(plan.dx, columns)), "{plans:?}");
        }
        assert!(any(false, &|plan| wgmma(plan.up, 192) && wgmma(plan.down, 192) && wgmma(plan.dinner, 192)), "{plans:?}");
    }
}
