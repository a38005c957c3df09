//! The gate: which experts a row chooses, with ties and with NaN.

mod support;

use fair_moe::*;
use proptest::prelude::*;
use support::assert_close;
use support::layer::Layer;

/// A linear gate over D = E whose logits are x itself, on experts that do nothing of interest.
fn identity(experts: usize, top_k: usize, rows: usize, logits: Vec<f64>) -> Layer {
    let config = MoeConfig {
        gate: Gate { hidden: None, bias: false },
        experts: Experts { count: experts, width: 3, activation: Activation::Relu, gated: false, bias: true },
        top_k,
        capacity: Capacity::None,
        ..MoeConfig::token_paper(experts)
    };
    let mut layer = Layer::random(config, rows, 1, Layout::TokensFirst, 1);
    layer.parameters[Param::GateFc2Weight] =
        (0..experts * experts).map(|i| if i % (experts + 1) == 0 { 1.0 } else { 0.0 }).collect();
    layer.x = logits;
    layer
}

#[test]
fn ties_go_to_the_lowest_expert() {
    let layer = identity(4, 2, 3, vec![1.0, 1.0, 1.0, 1.0, 0.0, 2.0, 2.0, 2.0, 0.0, -0.0, 0.0, 3.0]);
    for results in [layer.reference().unwrap(), layer.run::<f64, f64>().unwrap(), layer.run::<f32, f32>().unwrap()] {
        assert_eq!(results.routing.chosen, [0, 1, 1, 2, 3, 0]);
    }
}

#[test]
fn experts_are_told_apart_by_logits_where_probabilities_vanish() {
    let layer = identity(3, 2, 1, vec![-500.0, 0.0, -400.0]);
    for results in [layer.reference().unwrap(), layer.run::<f64, f64>().unwrap(), layer.run::<f32, f32>().unwrap()] {
        assert_eq!(results.routing.chosen, [1, 2]);
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let layer = identity(3, 1, 1, vec![1e30, -1e30, 9e29]);
    assert_eq!(layer.run::<f32, f32>().unwrap().routing.probabilities, [1.0, 0.0, 0.0]);
}

#[test]
fn nan_stays_in_its_row() {
    for capacity in [Capacity::None, Capacity::Fixed(2)] {
        let mut layer = Layer::random(MoeConfig { capacity, ..MoeConfig::token_paper(12) }, 7, 3, Layout::TokensFirst, 4);
        let clean = Layer { dy: vec![0.0; layer.dy.len()], ..layer.clone() }.run::<f32, f32>().unwrap();
        let row = 10;
        layer.x[row * 12 + 5] = f64::NAN;
        for results in [layer.run::<f32, f32>().unwrap(), layer.run::<f64, f64>().unwrap(), layer.reference().unwrap()] {
            assert!(results.routing.probabilities[row * 10..][..10].iter().all(|p| p.is_nan()));
            for other in (0..21).filter(|&r| r != row) {
                assert!(results.y[other * 12..][..12].iter().all(|y| y.is_finite()), "row {other}");
                let (got, want) =
                    (&results.routing.probabilities[other * 10..][..10], &clean.routing.probabilities[other * 10..][..10]);
                assert_close("probabilities of the other rows", got, want, 1e-6);
            }
        }
        if capacity == Capacity::None {
            assert!(layer.run::<f32, f32>().unwrap().y[row * 12..][..12].iter().all(|y| y.is_nan()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// From few distinct values, so that there are many ties.
    #[test]
    fn the_chosen_are_the_first_k_of_a_stable_sort(
        (experts, k, rows) in (1usize..9, 1usize..9, 1usize..12).prop_map(|(e, k, n)| (e, k.min(e), n)),
        values in prop::collection::vec(-3i8..3, 96),
    ) {
        let logits: Vec<f64> = values[..rows * experts].iter().map(|&v| v as f64 / 2.0).collect();
        let results = identity(experts, k, rows, logits.clone()).run::<f32, f32>().unwrap();
        for row in 0..rows {
            let z = &logits[row * experts..][..experts];
            let mut order: Vec<u32> = (0..experts as u32).collect();
            order.sort_by(|&a, &b| z[b as usize].total_cmp(&z[a as usize]));
            prop_assert_eq!(&results.routing.chosen[row * k..][..k], &order[..k]);
            let total: f64 = z.iter().map(|z| z.exp()).sum();
            let softmax: Vec<f64> = z.iter().map(|z| z.exp() / total).collect();
            assert_close("softmax", &results.routing.probabilities[row * experts..][..experts], &softmax, 1e-6);
        }
    }
}
