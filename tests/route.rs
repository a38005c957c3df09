//! Capacity and the pair list, over shapes, ties and masks.

mod support;

use fair_moe::*;
use proptest::prelude::*;
use support::layer::Layer;

#[test]
fn capacities_of_the_presets() {
    let at = |config: MoeConfig, tokens| config.capacity_of(tokens, 32).unwrap();
    assert_eq!(at(MoeConfig::token_paper(768), 197), Some(47));
    assert_eq!(at(MoeConfig::token_paper(1024), 257), Some(61));
    assert_eq!(at(MoeConfig::token_paper(512), 77), Some(18));
    for tokens in [197, 257, 77] {
        assert_eq!(at(MoeConfig::token_authors(768), tokens), Some(47));
    }
    assert_eq!(at(MoeConfig::token_authors(768), 47), None, "nothing can be dropped");
    assert_eq!(at(MoeConfig::token_paper(768), 3), Some(1), "at least one");
    assert_eq!(at(MoeConfig::feature_paper(512, 3), 1), None);
    let whole = MoeConfig { capacity_scope: CapacityScope::Batch, ..MoeConfig::token_paper(768) };
    assert_eq!(at(whole, 197), Some(1512));
}

#[test]
fn parameter_counts_of_the_published_model() {
    // ViT-B/16: token mixtures of width 768 and 512, a feature mixture of width 512 with 3 experts; ViT-L/14: 1024, 768, and 768.
    assert_eq!(flat_len(&MoeConfig::token_authors(768)).unwrap(), 47_373_898);
    assert_eq!(flat_len(&MoeConfig::token_authors(512)).unwrap(), 21_064_074);
    assert_eq!(flat_len(&MoeConfig::feature_authors(512, 3)).unwrap(), 6_365_187);
    assert_eq!(flat_len(&MoeConfig::token_authors(1024)).unwrap(), 84_202_250);
}

/// A layer whose probabilities have many ties: rows are copies of a few.
fn tied(tokens: usize, samples: usize, layout: Layout, config: MoeConfig, pick: &[usize]) -> Layer {
    let mut layer = Layer::random(config, tokens, samples, layout, 7);
    let d = layer.config.width;
    let kinds = layer.x.clone();
    for row in 0..tokens * samples {
        let from = pick[row % pick.len()] % (tokens * samples).min(4);
        layer.x[row * d..][..d].copy_from_slice(&kinds[from * d..][..d]);
    }
    layer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Checked from the layer's own probabilities, by the definition: among those who chose expert e in the scope, a kept row has a
    /// larger weight than a dropped one, or the same and an earlier place.
    #[test]
    fn capacity_keeps_the_largest_weights(
        tokens in 1usize..14, samples in 1usize..5, experts in 1usize..7, k in 1usize..7, capacity in 1usize..6,
        (samples_first, batch, renormalise, masked) in any::<(bool, bool, bool, bool)>(),
        pick in prop::collection::vec(0usize..4, 1..60),
        mask in prop::collection::vec(any::<bool>(), 56),
    ) {
        let mut config = MoeConfig::token_paper(6);
        config.experts = Experts { count: experts, width: 5, ..config.experts };
        config.top_k = k.min(experts);
        config.capacity = Capacity::Fixed(capacity);
        config.capacity_scope = if batch { CapacityScope::Batch } else { CapacityScope::Sample };
        config.renormalise = renormalise;
        let layout = if samples_first { Layout::SamplesFirst } else { Layout::TokensFirst };
        let mut layer = tied(tokens, samples, layout, config, &pick);
        if masked {
            layer.row_mask = Some(mask[..tokens * samples].to_vec());
        }
        let (k, n) = (layer.config.top_k, tokens * samples);
        let routing = layer.run::<f32, f32>().unwrap().routing;
        let routed = |row: usize| layer.row_mask.as_ref().is_none_or(|m| m[row]);
        let chose = |row: usize, e: usize| routing.chosen[row * k..][..k].contains(&(e as u32));
        let weight = |row: usize, e: usize| {
            let total: f32 = if renormalise {
                routing.chosen[row * k..][..k].iter().map(|&c| routing.probabilities[row * experts + c as usize] as f32).sum()
            } else { 1.0 };
            (routing.probabilities[row * experts + e] as f32 / total) as f64
        };
        let place = |row: usize| if samples_first { (row % tokens, row / tokens) } else { (row / samples, row % samples) };
        for e in 0..experts {
            for row in 0..n {
                let stronger = |other: &usize| {
                    let same_scope = batch || place(*other).1 == place(row).1;
                    let (a, b) = (weight(*other, e), weight(row, e));
                    same_scope && routed(*other) && chose(*other, e) && (a > b || (a == b && place(*other) < place(row)))
                };
                let kept = routed(row) && chose(row, e) && (0..n).filter(stronger).count() < capacity;
                prop_assert_eq!(routing.weights[row * experts + e], if kept { weight(row, e) } else { 0.0 }, "row {} expert {}", row, e);
            }
        }
        check_list(&routing, experts, k, n)?;
    }
}

/// The pair list says the same as the dense weights.
fn check_list(routing: &Routing<f64>, experts: usize, k: usize, rows: usize) -> std::result::Result<(), TestCaseError> {
    let mut expected = vec![];
    for e in 0..experts {
        prop_assert_eq!(routing.expert_offsets[e], expected.len());
        expected.extend((0..rows).filter(|row| routing.weights[row * experts + e] != 0.0).map(|row| (row, e)));
    }
    prop_assert_eq!(routing.expert_offsets[experts], expected.len());
    prop_assert_eq!(routing.pairs(), expected.len());
    for (pair, (row, e)) in expected.into_iter().enumerate() {
        prop_assert_eq!(routing.pair_row[pair] as usize, row);
        prop_assert_eq!(routing.pair_weight[pair], routing.weights[row * experts + e]);
        let choice = routing.chosen[row * k..][..k].iter().position(|&c| c as usize == e).unwrap();
        prop_assert_eq!(routing.row_pairs[row * k + choice] as usize, pair);
    }
    prop_assert_eq!(routing.row_pairs.iter().filter(|&&p| p != NO_PAIR).count(), routing.pairs());
    Ok(())
}

#[test]
fn one_sample_of_a_million_tokens() {
    let mut config = MoeConfig::token_paper(1);
    config.experts = Experts { count: 2, width: 1, ..config.experts };
    config.top_k = 1;
    config.capacity = Capacity::Fixed(1000);
    let layer = Layer::random(config, 1 << 20, 1, Layout::TokensFirst, 3);
    let routing = layer.run::<f32, f32>().unwrap().routing;
    assert!(routing.pairs() <= 2000 && routing.pairs() >= 1000);
}
