//! Gather-and-sum: each row once, whatever the order of the rows in memory.

mod support;

use fair_moe::*;
use support::assert_close;
use support::layer::Layer;

/// From [T, B, width] to [B, T, width].
fn transposed(values: &[f64], tokens: usize, samples: usize) -> Vec<f64> {
    let width = values.len() / (tokens * samples);
    let rows = (0..samples).flat_map(|b| (0..tokens).map(move |t| t * samples + b));
    rows.flat_map(|row| values[row * width..][..width].iter().copied()).collect()
}

#[test]
fn both_layouts_give_the_same_rows() {
    let config = MoeConfig { subtract_input: true, shared_expert: true, ..MoeConfig::token_paper(12) };
    let first = Layer::random(config, 9, 4, Layout::TokensFirst, 6);
    let turn = |v: &[f64]| transposed(v, 9, 4);
    let turn_option = |v: &Option<Vec<f64>>| v.as_deref().map(turn);
    let second = Layer {
        layout: Layout::SamplesFirst,
        x: turn(&first.x),
        dy: turn(&first.dy),
        dweights: turn_option(&first.dweights),
        dprobabilities: turn_option(&first.dprobabilities),
        dlogits: turn_option(&first.dlogits),
        ..first.clone()
    };
    let (a, b) = (first.run::<f64, f64>().unwrap(), second.run::<f64, f64>().unwrap());
    assert_close("y", &b.y, &turn(&a.y), 1e-13);
    assert_close("dx", &b.dx, &turn(&a.dx), 1e-12);
    assert_close("weights", &b.routing.weights, &turn(&a.routing.weights), 1e-13);
    for p in Param::ALL {
        assert_close(p.name(), &b.gradients[p], &a.gradients[p], 1e-11);
    }
}

#[test]
fn a_row_that_reaches_no_expert_is_zero_or_minus_itself() {
    let config = MoeConfig { capacity: Capacity::Fixed(1), ..MoeConfig::token_paper(6) };
    let layer = Layer::random(config, 30, 1, Layout::TokensFirst, 8);
    let subtracting = Layer { config: MoeConfig { subtract_input: true, ..layer.config.clone() }, ..layer.clone() };
    let (plain, minus) = (layer.run::<f64, f64>().unwrap(), subtracting.run::<f64, f64>().unwrap());
    let lost: Vec<usize> = (0..30).filter(|row| plain.routing.weights[row * 10..][..10].iter().all(|&w| w == 0.0)).collect();
    assert!(lost.len() >= 20, "ten experts of one row each reach at most ten rows");
    for row in lost {
        assert!(plain.y[row * 6..][..6].iter().all(|&y| y == 0.0));
        assert!(minus.y[row * 6..][..6].iter().zip(&layer.x[row * 6..][..6]).all(|(y, x)| *y == -x));
    }
}
