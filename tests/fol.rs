//! The loss, against recorded cases, finite differences, and what it must be by its meaning.

mod support;

use fair_moe::*;
use proptest::prelude::*;
use support::loss::{BatchData, Grouping, Loss};
use support::{Case, assert_close, finite_differences, on_threads, relative_l2};

/// Recorded values and gradients; `plain` bounds what does not go through Sinkhorn, `sinkhorn` the gradient that does.
fn replay<W: Float>(name: &str, plain: f64, sinkhorn: f64) {
    let case = Case::load(name);
    let (state, gradients) = Loss::recorded(&case).backward::<W>(1.0).unwrap();
    let close = |what: &str, got: &[f64], bound: f64| assert_close(&format!("{name} {what}"), got, case.get(what), bound);
    let mean = |variance: &[f64]| [variance.iter().sum::<f64>() / variance.len() as f64];
    close("clip_loss", &[state.clip_loss], plain);
    close("correlation", &state.correlation, plain);
    close("fol", &[state.terms.total], plain);
    for (g, group) in state.groups.iter().enumerate() {
        let group = group.as_ref().unwrap();
        close(&format!("group{g}.correlation_normalised"), &group.correlation, plain);
        close(&format!("group{g}.sinkhorn"), &[group.distance], plain);
        (0..2).for_each(|i| close(&format!("group{g}.dispersion{i}"), &mean(&group.variance[i]), plain));
    }
    let wide = |values: &[W]| values.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    close("d.logits", &wide(&gradients.dsimilarity), sinkhorn);
    for i in 0..2 {
        close(&format!("dispersion{i}"), &mean(&state.variance[i]), plain);
        close(&format!("d.weights{i}"), &wide(&gradients.dweights[i]), plain);
    }
    assert!(state.warnings.is_empty() && gradients.groups.is_empty());
}

#[test]
fn recorded_cases() {
    for name in ["fol_race", "fol_strong"] {
        replay::<f64>(name, 1e-10, 1e-6);
        replay::<f32>(name, 2e-5, 1e-4);
    }
}

/// Random groups of every kind: two batches of their own, or ids with a sample in none.
fn random(seed: u64, ids: bool) -> Loss {
    let groups = match ids {
        true => Grouping::Ids(vec![1, 0, -1, 1, 0, 1], 2),
        false => Grouping::Separate(vec![BatchData::random(seed + 10, 4, 2), BatchData::random(seed + 20, 6, 3)]),
    };
    Loss { config: FolConfig { lambda_dispersion: 0.9, ..FolConfig::paper() }, batch: BatchData::random(seed, 6, 3), groups }
}

/// Every combination of the axes that change what is computed.
fn configs() -> Vec<FolConfig> {
    let mut configs = vec![];
    for dispersion in [Dispersion::PerExpert, Dispersion::MeanFirst] {
        for correlation in [Correlation::Diagonal, Correlation::DiagonalLogit, Correlation::DiagonalOfSquare] {
            for normalise in [Normalise::None, Normalise::GroupSum, Normalise::BothSum, Normalise::ZScore] {
                for lambda_batch_variance in [0.0, 0.7] {
                    configs.push(FolConfig {
                        lambda_clip: 0.8,
                        lambda_distance: 0.6,
                        lambda_dispersion: 0.9,
                        lambda_batch_variance,
                        dispersion,
                        correlation,
                        normalise,
                        distance: Distance::Exact,
                        group_gradient: true,
                    });
                }
            }
        }
    }
    configs
}

fn check_gradient(loss: &Loss, bound: f64) {
    let want = finite_differences(&loss.numbers(), 1e-6, |numbers| 1.5 * loss.with(numbers).total());
    assert_close(&format!("{:?}", loss.config), &loss.gradients::<f64>(1.5), &want, bound);
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (seed, config) in configs().into_iter().enumerate() {
        for ids in [false, true] {
            let mut loss = Loss { config: config.clone(), ..random(100 * seed as u64, ids) };
            check_gradient(&loss, 1e-7);
            loss.batch.gates[0].row_mask = Some((0..18).map(|row| row % 5 != 0).collect());
            check_gradient(&loss, 1e-7);
            if !ids {
                loss.config.group_gradient = false;
                check_gradient(&loss, 1e-7);
            }
        }
    }
}

/// geomloss's gradient holds the potentials, which is exact only as far as they have converged: a slow descent to a wide blur.
#[test]
fn gradients_through_sinkhorn_agree_with_finite_differences() {
    // Sums and deviations move the correlations to another scale than that of these blurs; what they do is tested above.
    let as_they_are = configs().into_iter().filter(|c| matches!(c.normalise, Normalise::None | Normalise::GroupSum));
    for (seed, mut config) in as_they_are.enumerate().step_by(2) {
        let blur = if config.correlation == Correlation::Diagonal { 0.5 } else { 2.0 };
        config.distance = Distance::Sinkhorn { blur, scaling: 0.998 };
        check_gradient(&Loss { config, ..random(100 * seed as u64, seed % 4 == 0) }, 1e-3);
    }
}

/// Ids are the separate batches that they stand for, in value and gradient; with or without the groups' own gradient.
#[test]
fn ids_are_separate_batches() {
    for (seed, config) in configs().into_iter().enumerate() {
        let mut loss = Loss { config, ..random(100 * seed as u64, true) };
        loss.batch.gates[0].layout = if seed % 2 == 0 { Layout::TokensFirst } else { Layout::SamplesFirst };
        loss.batch.gates[0].row_mask = Some((0..18).map(|row| row % 4 != 1).collect());
        loss.config.group_gradient = false;
        let (one, separate) = (loss.forward::<f64>().unwrap(), loss.separated().forward::<f64>().unwrap());
        assert_close("total", &[one.terms.total], &[separate.terms.total], 1e-14);
        for (one, separate) in one.groups.iter().zip(&separate.groups) {
            let (one, separate) = (one.as_ref().unwrap(), separate.as_ref().unwrap());
            assert_close("correlation", &one.correlation, &separate.correlation, 1e-14);
            assert_close("variance", &one.variance.concat(), &separate.variance.concat(), 1e-13);
        }
        assert_close("gradient", &loss.gradients::<f64>(1.0), &loss.separated().gradients::<f64>(1.0), 1e-13);
    }
}

#[test]
fn terms_add_up_with_their_weights() {
    for ids in [false, true] {
        let mut loss = random(7, ids);
        loss.config = FolConfig { lambda_clip: 0.5, lambda_distance: 2.0, lambda_batch_variance: 3.0, ..FolConfig::paper() };
        let state = loss.forward::<f64>().unwrap();
        let terms = state.terms;
        assert_close("total", &[terms.clip + terms.distance + terms.dispersion + terms.batch_variance], &[terms.total], 1e-15);
        assert_close("clip", &[0.5 * state.clip_loss], &[terms.clip], 1e-15);
        let groups: Vec<&FolGroup> = state.groups.iter().flatten().collect();
        assert_close("distance", &[groups.iter().map(|g| 2.0 * g.distance).sum()], &[terms.distance], 1e-15);
        let gap = |g: &FolGroup| {
            let gaps = state.variance.concat().into_iter().zip(g.variance.concat()).map(|(b, g)| b - g);
            gaps.map(|gap| 1e-4 * gap * gap).sum::<f64>()
        };
        assert_close("dispersion", &[groups.iter().map(|g| gap(g)).sum()], &[terms.dispersion], 1e-14);
        let means = state.variance.iter().map(|v| v.iter().sum::<f64>() / v.len() as f64);
        assert_close("batch variance", &[-3.0 * means.sum::<f64>()], &[terms.batch_variance], 1e-14);
    }
}

/// Scaled by hand, correlations are as far apart as the loss says.
#[test]
fn both_sides_are_scaled_as_they_should_be() {
    let mean = |c: &[f64]| c.iter().sum::<f64>() / c.len() as f64;
    let sum = |c: &[f64]| c.iter().map(|v| v / (mean(c) * c.len() as f64)).collect::<Vec<_>>();
    let zscore = |c: &[f64]| {
        let square: f64 = c.iter().map(|v| (v - mean(c)).powi(2)).sum();
        c.iter().map(|v| (v - mean(c)) / (square / (c.len() as f64 - 1.0)).sqrt()).collect::<Vec<_>>()
    };
    let mut loss = random(11, false);
    loss.config.correlation = Correlation::DiagonalLogit;
    let raw = loss.forward::<f64>().unwrap();
    let logits: Vec<f64> = (0..6).map(|i| 1.3 * loss.batch.similarity[i * 7]).collect();
    assert_close("correlation", &raw.correlation, &logits, 1e-15);
    type Scale<'a> = &'a dyn Fn(&[f64]) -> Vec<f64>;
    for (normalise, scale) in [(Normalise::BothSum, &sum as Scale<'_>), (Normalise::ZScore, &zscore)] {
        loss.config.normalise = normalise;
        let state = loss.forward::<f64>().unwrap();
        for (group, raw_group) in state.groups.iter().flatten().zip(raw.groups.iter().flatten()) {
            let own = scale(&raw_group.correlation);
            assert_close("the group's correlation", &group.correlation, &own, 1e-13);
            let distance = transport::exact(&scale(&raw.correlation), &own).unwrap().distance;
            assert_close("distance", &[group.distance], &[distance], 1e-13);
        }
    }
    // A single sample, or equal ones, have no deviation.
    loss.groups = Grouping::Separate(vec![BatchData::random(1, 1, 2)]);
    assert!(loss.gradients::<f64>(1.0).iter().all(|d| d.is_finite()));
    assert_eq!(loss.forward::<f64>().unwrap().groups[0].as_ref().unwrap().correlation, [0.0]);
}

#[test]
fn a_group_like_the_batch_costs_nothing() {
    let mut loss = random(3, true);
    for distance in [Distance::Exact, Distance::Sinkhorn { blur: 1e-3, scaling: 0.5 }] {
        loss.config.distance = distance;
        loss.groups = Grouping::Ids(vec![0; 6], 1);
        let state = loss.forward::<f64>().unwrap();
        assert_eq!((state.terms.distance, state.terms.dispersion), (0.0, 0.0));
        loss.config.lambda_clip = 0.0;
        assert!(loss.gradients::<f64>(1.0).iter().all(|&d| d == 0.0));
    }
}

#[test]
fn small_groups_warn() {
    let mut loss = random(5, true);
    loss.groups = Grouping::Ids(vec![0, 2, 2, 0, 0, 3], 4);
    loss.config.group_gradient = true;
    let (state, gradients) = loss.backward::<f64>(1.0).unwrap();
    assert!(state.groups[1].is_none());
    // One sample has three token rows in the first gate, but a single row in the second.
    let alone = state.groups[3].as_ref().unwrap();
    assert!(alone.variance[0].iter().any(|&v| v > 0.0));
    assert_eq!(alone.variance[1], [0.0; 3]);
    assert_eq!(
        state.warnings,
        ["group 1 has no samples and is left out", "in gate 1 group 3 has a single row, so its variance is 0"]
    );
    assert!(support::loss::flat(&gradients).iter().all(|d| d.is_finite()));
    check_gradient(&loss, 1e-7);

    // A mask that takes all rows of a group away; an empty separate batch; a batch of one sample.
    loss.batch.gates[0].row_mask = Some((0..18).map(|row| row % 6 != 5).collect());
    let state = loss.forward::<f64>().unwrap();
    assert!(state.warnings.contains(&"in gate 0 group 3 has no rows and is left out".to_owned()), "{:?}", state.warnings);
    check_gradient(&loss, 1e-7);
    loss.groups = Grouping::Separate(vec![BatchData::random(1, 0, 3), BatchData::random(2, 4, 3)]);
    let state = loss.forward::<f64>().unwrap();
    assert!(state.groups[0].is_none() && state.groups[1].is_some());
    check_gradient(&loss, 1e-7);
    loss.batch = BatchData::random(4, 1, 1);
    let state = loss.forward::<f64>().unwrap();
    assert_eq!((state.warnings.len(), state.variance.concat()), (3, vec![0.0; 8]));
    check_gradient(&loss, 1e-7);
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let mut loss = Loss { config: FolConfig::authors(), ..random(1, true) };
    loss.batch = BatchData::random(9, 150, 7);
    loss.groups = Grouping::Ids((0..150).map(|b| b % 4 - 1).collect(), 3);
    loss.config.group_gradient = true;
    let one = on_threads(1, || loss.gradients::<f32>(1.0));
    assert!((0..3).all(|_| on_threads(2, || loss.gradients::<f32>(1.0)) == one));
    assert_eq!(on_threads(1, || loss.total()).to_bits(), on_threads(2, || loss.total()).to_bits());
}

#[test]
fn what_is_not_finite_gives_values_and_no_panic() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        for at in [0, 1, 36, 40] {
            for (ids, distance) in [(true, Distance::Exact), (false, Distance::Sinkhorn { blur: 1e-4, scaling: 0.5 })] {
                let mut loss = random(2, ids);
                loss.config = FolConfig { distance, group_gradient: true, ..FolConfig::authors() };
                let mut numbers = loss.numbers();
                numbers[at] = bad;
                let loss = loss.with(&numbers);
                loss.backward::<f64>(1.0).unwrap();
                loss.backward::<f32>(1.0).unwrap();
                assert!(!bad.is_nan() || loss.total().is_nan());
            }
        }
    }
    let mut zeros = random(2, true);
    zeros.batch.similarity.fill(0.0);
    zeros.config.normalise = Normalise::GroupSum;
    assert!(zeros.total().is_nan());
    zeros.config.lambda_distance = 0.0;
    assert!(zeros.total().is_finite() && zeros.gradients::<f64>(1.0).iter().all(|d| d.is_finite()));
}

type Damage<'a> = &'a dyn Fn(&mut Loss);

/// Of a term whose weight is 0 nothing is left, not even what is not a number.
#[test]
fn a_weight_of_zero_switches_its_term_off() {
    let off = FolConfig { lambda_clip: 0.0, lambda_distance: 0.0, lambda_dispersion: 0.0, ..FolConfig::authors() };
    let off = FolConfig { lambda_batch_variance: 0.0, group_gradient: true, ..off };
    for correlation in [Correlation::Diagonal, Correlation::DiagonalOfSquare] {
        for ids in [false, true] {
            let off = FolConfig { correlation, distance: Distance::Exact, ..off.clone() };
            let similarity = |loss: &mut Loss| loss.batch.similarity[1] = f64::NAN;
            let weights = |loss: &mut Loss| loss.batch.gates[0].weights[2] = f64::NAN;
            let group = |loss: &mut Loss| {
                if let Grouping::Separate(groups) = &mut loss.groups {
                    groups[1].similarity.fill(f64::NAN);
                    groups[1].gates[0].weights.fill(f64::NAN);
                }
            };
            let on_weights = FolConfig { lambda_dispersion: 0.9, lambda_batch_variance: 0.7, ..off.clone() };
            let on_similarity = FolConfig { lambda_clip: 0.8, lambda_distance: 0.6, ..off.clone() };
            let on_batch = FolConfig { lambda_clip: 0.8, lambda_batch_variance: 0.7, ..off.clone() };
            let cases: [(FolConfig, &[Damage<'_>]); 4] = [
                (off, &[&similarity, &weights, &group]),
                (on_weights, &[&similarity]),
                (on_similarity, &[&weights]),
                (on_batch, &[&group]),
            ];
            for (config, damages) in cases {
                let clean = Loss { config, ..random(6, ids) };
                let mut damaged = clean.clone();
                damages.iter().for_each(|damage| damage(&mut damaged));
                assert_eq!(damaged.total(), clean.total(), "{:?}", clean.config);
                assert_eq!(damaged.gradients::<f64>(1.5), clean.gradients::<f64>(1.5), "{:?}", clean.config);
            }
        }
    }
}

fn refused(loss: &Loss) -> String {
    loss.forward::<f64>().unwrap_err().to_string()
}

#[test]
fn bad_input_is_an_error() {
    let with = |change: &dyn Fn(&mut Loss)| {
        let mut loss = random(2, true);
        change(&mut loss);
        refused(&loss)
    };
    let ids = |ids: Vec<i64>, count| with(&|loss| loss.groups = Grouping::Ids(ids.clone(), count));
    assert_eq!(ids(vec![0, 1, 2, 0, 0, 0], 2), "the group ids must be from 0 to 1, or -1 for none, but number 2 is 2");
    assert_eq!(ids(vec![0, 1, 0, -2, 0, 0], 2), "the group ids must be from 0 to 1, or -1 for none, but number 3 is -2");
    assert_eq!(ids(vec![0; 6], 0), "the group ids must be -1, for there are no groups, but number 0 is 0");
    assert_eq!(ids(vec![0; 5], 2), "the group ids must have shape [6] (6 elements), but has 5 elements");
    assert_eq!(ids(vec![0; 6], usize::MAX), format!("the number of groups must be at most 65536, but is {}", usize::MAX));
    assert_eq!(
        with(&|loss| loss.batch.similarity.truncate(35)),
        "the similarity must have shape [6, 6] (36 elements), but has 35 elements"
    );
    assert!(with(&|loss| loss.batch.samples = usize::MAX).contains("too many"));
    assert!(with(&|loss| loss.batch = BatchData::random(0, 0, 3)).contains("at least 1"));
    assert!(with(&|loss| loss.batch.gates[0].experts = 0).contains("at least 1"));
    assert!(with(&|loss| loss.batch.gates[0].experts = 4).contains("shape [22, 4]"));
    assert!(with(&|loss| loss.batch.gates[0].row_mask = Some(vec![true; 17])).contains("row mask"));
    let rows = with(&|loss| loss.batch.gates[0].weights.truncate(85));
    assert_eq!(rows, "with group ids, the number of a gate's rows must be a multiple of the 6 samples, but is 17");
    let separate = |change: &dyn Fn(&mut BatchData)| {
        let mut group = BatchData::random(1, 4, 3);
        change(&mut group);
        with(&|loss| loss.groups = Grouping::Separate(vec![group.clone()]))
    };
    let fewer = separate(&|group| group.gates.truncate(1));
    assert_eq!(fewer, "a group must have the batch's gates, of [5, 3] experts, but has gates of [5] experts");
    assert!(separate(&|group| group.samples = 3).contains("shape [3, 3]"));

    let config = |change: &dyn Fn(&mut FolConfig)| with(&|loss| change(&mut loss.config));
    assert_eq!(config(&|c| c.lambda_clip = f64::NAN), "lambda_clip must be a finite number, but is NaN");
    let sinkhorn = |blur, scaling| config(&|c| c.distance = Distance::Sinkhorn { blur, scaling });
    assert_eq!(sinkhorn(0.0, 0.5), "blur must be from 1e-150 to 1e150, but is 0");
    assert_eq!(sinkhorn(0.1, 1.0), "scaling must be above 0 and at most 0.999, but is 1");
    assert!(sinkhorn(f64::NAN, 0.5).contains("NaN") && sinkhorn(0.1, f64::NAN).contains("NaN"));
}

#[test]
fn a_state_of_another_batch_is_refused() {
    let (loss, mut other) = (random(1, true), random(2, true));
    other.batch = BatchData::random(3, 6, 2);
    other.batch.gates.pop();
    let state = other.forward::<f64>().unwrap();
    for state in [state, FolState::default()] {
        let backward = loss.run::<f64, _>(|fol, batch, groups| fol.backward(batch, groups, &state, 1.0));
        assert!(backward.unwrap_err().to_string().contains("state"));
    }
}

proptest! {
    /// Any shape gives finite gradients of the right length, and f32 is f64 rounded.
    #[test]
    fn any_shape(seed in 0u64..1 << 40, samples in 1usize..9, tokens in 0usize..4, count in 1usize..5, authors: bool, group_gradient: bool) {
        let mut loss = random(seed, true);
        loss.batch = BatchData::random(seed, samples, tokens);
        let id = |b: usize| (seed >> (3 * b)) as i64 % (count as i64 + 1) - 1;
        loss.groups = Grouping::Ids((0..samples).map(id).collect(), count);
        loss.config = if authors { FolConfig::authors() } else { FolConfig::paper() };
        loss.config.normalise = Normalise::None;
        loss.config.group_gradient = group_gradient;
        let wide = loss.gradients::<f64>(1.0);
        prop_assert_eq!(wide.len(), samples * samples + 1 + 5 * tokens * samples + 3 * samples);
        prop_assert!(wide.iter().all(|d| d.is_finite()));
        prop_assert!(relative_l2(&loss.gradients::<f32>(1.0), &wide) < 1e-3);
        prop_assert!((loss.forward::<f32>().unwrap().terms.total - loss.total()).abs() < 1e-5 * (1.0 + loss.total().abs()));
    }
}
