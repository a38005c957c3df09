//! The layer against the recorded cases, against the reference over every axis, and against finite differences.

mod support;

use fair_moe::*;
use half::{bf16, f16};
use proptest::prelude::*;
use support::layer::{Layer, Results, check_against, every_axis, recorded};
use support::{Case, assert_close};

const RECORDED: [&str; 6] =
    ["token_small", "token_vit", "token_renormalised", "token_silu_nocap", "feature_small", "feature_wide"];

fn check_recorded(what: &str, results: &Results, case: &Case, bound: f64, wide_bound: f64) {
    assert_close(&format!("{what} y"), &results.y, case.get("y"), bound);
    assert_close(&format!("{what} dx"), &results.dx, case.get("dx"), bound);
    for p in Param::ALL.into_iter().filter(|p| case.tensors.contains_key(p.name())) {
        let name = format!("d.{}", p.name());
        assert_close(&format!("{what} {name}"), &results.gradients[p], case.get(&name), bound);
    }
    let routing = &results.routing;
    if case.tensors.contains_key("weights") {
        assert_close(&format!("{what} probabilities"), &routing.probabilities, case.get("probabilities"), wide_bound);
        assert_close(&format!("{what} weights"), &routing.weights, case.get("weights"), wide_bound);
        let kept = |w: &[f64]| w.iter().map(|&w| w != 0.0).collect::<Vec<_>>();
        assert_eq!(kept(&routing.weights), kept(case.get("weights")), "{what}: which pairs are kept");
    } else {
        assert_close(&format!("{what} logits"), &routing.logits, case.get("logits"), wide_bound);
    }
}

#[test]
fn recorded_cases_by_the_reference() {
    for name in RECORDED {
        let case = Case::load(name);
        check_recorded(name, &recorded(&case).reference().unwrap(), &case, 1e-10, 1e-10);
    }
}

#[test]
fn recorded_cases_in_every_dtype() {
    for name in RECORDED {
        let case = Case::load(name);
        let layer = recorded(&case);
        check_recorded(&format!("{name} f64"), &layer.run::<f64, f64>().unwrap(), &case, 1e-10, 1e-10);
        check_recorded(&format!("{name} f32"), &layer.run::<f32, f32>().unwrap(), &case, 2e-5, 2e-5);
        check_recorded(&format!("{name} f16"), &layer.run::<f16, f16>().unwrap(), &case, 1.5e-3, 2e-5);
        check_recorded(&format!("{name} bf16"), &layer.run::<bf16, bf16>().unwrap(), &case, 7e-3, 2e-5);
        check_recorded(&format!("{name} bf16 with f32 gradients"), &layer.run::<bf16, f32>().unwrap(), &case, 7e-3, 2e-5);
    }
}

#[test]
fn every_axis_agrees_with_the_reference() {
    for (what, layer) in every_axis() {
        let want = layer.reference().unwrap();
        check_against(&format!("{what} f64"), &layer.run::<f64, f64>().unwrap(), &want, 1e-10, 1e-10);
        check_against(&format!("{what} f32"), &layer.run::<f32, f32>().unwrap(), &want, 2e-5, 2e-5);
        check_against(&format!("{what} f16"), &layer.run::<f16, f16>().unwrap(), &want, 1.5e-3, 2e-5);
        check_against(&format!("{what} f16, f32 gradients"), &layer.run::<f16, f32>().unwrap(), &want, 1.5e-3, 2e-5);
        check_against(&format!("{what} bf16"), &layer.run::<bf16, bf16>().unwrap(), &want, 7e-3, 2e-5);
    }
}

/// What the gradients are gradients of.
fn objective(layer: &Layer) -> f64 {
    let out = reference::moe_forward(&layer.config, &layer.parameters.as_slices(), &layer.input(&layer.x)).unwrap();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let with = |g: &Option<Vec<f64>>, v: &[f64]| g.as_ref().map_or(0.0, |g| dot(g, v));
    dot(&layer.dy, &out.y)
        + with(&layer.dweights, &out.routing.weights)
        + with(&layer.dprobabilities, &out.routing.probabilities)
        + with(&layer.dlogits, &out.routing.logits)
}

/// Central differences along a random direction of x and of each parameter; the step is too small to change a routing decision.
#[test]
fn gradients_are_those_of_finite_differences() {
    // Among a thousand pairs some weights are closer to each other than the step.
    for (what, layer) in every_axis().into_iter().filter(|(_, layer)| layer.tokens * layer.samples < 100) {
        // dy of rows that are not needed is not read.
        let results = layer.run::<f64, f64>().unwrap();
        let check = |name: &str, gradient: &[f64], change: &dyn Fn(&mut Layer, &[f64], f64)| {
            let direction: Vec<f64> = (0..gradient.len()).map(|i| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0).collect();
            let at = |h: f64| {
                let mut moved = layer.clone();
                change(&mut moved, &direction, h);
                objective(&moved)
            };
            let h = 1e-6;
            let numeric = (at(h) - at(-h)) / (2.0 * h);
            let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let scale = numeric.abs().max(analytic.abs()).max(1e-2);
            assert!((numeric - analytic).abs() <= 2e-5 * scale, "{what} d.{name}: {analytic} but differences give {numeric}");
        };
        let moved = |v: &mut [f64], d: &[f64], h: f64| v.iter_mut().zip(d).for_each(|(v, d)| *v += h * d);
        check("x", &results.dx, &|l, d, h| moved(&mut l.x, d, h));
        for p in Param::ALL.into_iter().filter(|p| p.len(&layer.config) > 0) {
            check(p.name(), &results.gradients[p], &|l, d, h| moved(&mut l.parameters[p], d, h));
        }
    }
}

#[test]
fn the_same_bits_on_one_and_two_threads_and_on_every_run() {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    for (what, layer) in every_axis() {
        let one = pool(1).install(|| (layer.run::<f32, f32>().unwrap(), layer.run::<bf16, bf16>().unwrap()));
        for _ in 0..2 {
            let two = pool(2).install(|| (layer.run::<f32, f32>().unwrap(), layer.run::<bf16, bf16>().unwrap()));
            assert!(one == two, "{what}: bits differ");
        }
    }
    let case = Case::load("token_vit");
    let layer = recorded(&case);
    assert!(pool(1).install(|| layer.run::<f32, f32>().unwrap()) == pool(2).install(|| layer.run::<f32, f32>().unwrap()));
}

#[test]
fn pruning_to_the_rows_needed_is_exact() {
    let mut whole = Layer::random(MoeConfig::token_paper(24), 17, 3, Layout::SamplesFirst, 5);
    let needed = vec![0, 17, 34];
    for row in (0..51).filter(|row| !needed.contains(row)) {
        whole.dy[row * 24..][..24].fill(0.0);
    }
    let pruned = Layer { rows_needed: Some(needed.clone()), ..whole.clone() };
    let (a, b) = (whole.run::<f64, f64>().unwrap(), pruned.run::<f64, f64>().unwrap());
    for row in needed {
        assert_close("y", &b.y[row * 24..][..24], &a.y[row * 24..][..24], 1e-12);
    }
    assert_eq!(a.routing.weights, b.routing.weights);
    assert_close("dx", &b.dx, &a.dx, 1e-12);
    for p in Param::ALL {
        assert_close(p.name(), &b.gradients[p], &a.gradients[p], 1e-12);
    }
    assert_eq!(b.routing.pairs(), b.routing.row_pairs.iter().filter(|&&p| p != NO_PAIR).count());
    assert!(b.routing.pairs() <= 9);
}

#[test]
fn gradients_accumulate_and_inference_gives_the_same_output() {
    let layer = Layer::random(MoeConfig::token_paper(16), 9, 2, Layout::TokensFirst, 3);
    let moe = Moe::new(layer.config.clone()).unwrap();
    let (parameters, input) = (layer.parameters.as_slices(), layer.input(&layer.x));
    let (mut state, mut y, mut dx) = (MoeState::default(), vec![0.0; layer.x.len()], vec![0.0; layer.x.len()]);
    moe.forward(&parameters, &input, &mut y, &mut state).unwrap();
    let (mut again, mut routing) = (vec![0.0; y.len()], Routing::default());
    moe.infer(&parameters, &input, &mut again, &mut routing).unwrap();
    assert_eq!(y, again);
    assert_eq!(&routing, state.routing());

    let upstream = Upstream::new(&layer.dy);
    let mut gradients = Parameters::<Vec<f64>>::zeros(&layer.config).unwrap();
    for mode in [GradientMode::Overwrite, GradientMode::Accumulate, GradientMode::Accumulate] {
        moe.backward(&parameters, &input, &state, &upstream, &mut dx, &mut gradients.as_mut_slices(), mode).unwrap();
    }
    let once = Layer { dweights: None, dprobabilities: None, dlogits: None, ..layer.clone() }.reference().unwrap();
    for p in Param::ALL {
        let thrice: Vec<f64> = once.gradients[p].iter().map(|g| 3.0 * g).collect();
        assert_close(p.name(), &gradients[p], &thrice, 1e-12);
    }
}

#[test]
fn shapes_that_disagree_are_errors() {
    let layer = Layer::random(MoeConfig::token_paper(8), 5, 2, Layout::TokensFirst, 1);
    let moe = Moe::new(layer.config.clone()).unwrap();
    let (parameters, input) = (layer.parameters.as_slices(), layer.input(&layer.x));
    let (mut state, mut y) = (MoeState::default(), vec![0.0; 80]);
    let forward = |input: &MoeInput<f64>, y: &mut [f64]| {
        moe.forward(&parameters, input, y, &mut MoeState::default()).unwrap_err().to_string()
    };
    assert_eq!(forward(&input, &mut [0.0; 79]), "y or dx must have shape [5, 2, 8] (80 elements), but has 79 elements");
    assert_eq!(
        forward(&MoeInput { tokens: 6, ..input }, &mut y),
        "x must have shape [6, 2, 8] (96 elements), but has 80 elements"
    );
    assert!(forward(&MoeInput { tokens: usize::MAX, ..input }, &mut y).contains("overflows"));
    assert!(forward(&MoeInput { row_mask: Some(&[true]), ..input }, &mut y).contains("row mask"));
    assert!(forward(&MoeInput { rows_needed: Some(&[3, 3]), ..input }, &mut y).contains("ascending"));
    assert!(forward(&MoeInput { rows_needed: Some(&[10]), ..input }, &mut y).contains("below 10"));

    let mut gradients = Parameters::<Vec<f64>>::zeros(&layer.config).unwrap();
    let (upstream, mut dx) = (Upstream::new(&layer.dy), vec![0.0; 80]);
    let mut backward = |state: &MoeState<f64>, upstream: &Upstream<f64>| {
        let mode = GradientMode::Overwrite;
        moe.backward(&parameters, &input, state, upstream, &mut dx, &mut gradients.as_mut_slices(), mode)
    };
    assert!(backward(&state, &upstream).unwrap_err().to_string().contains("the state's"), "no forward pass went before");
    moe.forward(&parameters, &input, &mut y, &mut state).unwrap();
    assert!(backward(&state, &Upstream { dweights: Some(&[0.0]), ..upstream }).is_err());
    assert!(backward(&state, &upstream).is_ok());

    let refused = |change: &dyn Fn(&mut MoeConfig)| {
        let mut config = layer.config.clone();
        change(&mut config);
        Moe::new(config).unwrap_err().to_string()
    };
    assert_eq!(refused(&|c| c.top_k = 0), "top-k must be from 1 to the number of experts, 10, but is 0");
    assert_eq!(refused(&|c| c.top_k = 11), "top-k must be from 1 to the number of experts, 10, but is 11");
    assert!(refused(&|c| c.capacity = Capacity::Fixed(0)).contains("at least 1"));
    assert!(refused(&|c| c.capacity = Capacity::Factor(f64::NAN)).contains("above 0"));
    assert!(refused(&|c| c.width = usize::MAX / 2).contains("overflows"));
    assert!(refused(&|c| c.width = 0).contains("at least 1"));
}

#[test]
fn nothing_in_nothing_out() {
    let layer = Layer::random(MoeConfig::token_paper(8), 0, 4, Layout::TokensFirst, 1);
    let results = layer.run::<f32, f32>().unwrap();
    assert!(results.y.is_empty() && results.routing.pairs() == 0);
    assert!(Param::ALL.iter().all(|&p| results.gradients[p].iter().all(|&g| g == 0.0)));
}

fn any_config() -> impl Strategy<Value = MoeConfig> {
    let sizes = (1usize..12, 1usize..10, 1usize..8, 1usize..8, prop::option::of(1usize..6));
    let acts = (0usize..4, 0usize..4);
    let capacity =
        prop_oneof![Just(Capacity::None), (1usize..6).prop_map(Capacity::Fixed), (0.1f64..2.0).prop_map(Capacity::Factor),];
    let flags = prop::array::uniform7(any::<bool>());
    (sizes, acts, capacity, flags).prop_map(|((width, inner, count, top_k, hidden), (gate_act, act), capacity, flags)| {
        let [gate_bias, gated, bias, renormalise, batch, shared_expert, subtract_input] = flags;
        MoeConfig {
            width,
            gate: Gate {
                hidden: hidden.map(|width| GateHidden { width, activation: Activation::ALL[gate_act] }),
                bias: gate_bias,
            },
            experts: Experts { count, width: inner, activation: Activation::ALL[act], gated, bias },
            top_k: top_k.min(count),
            renormalise,
            capacity,
            capacity_scope: if batch { CapacityScope::Batch } else { CapacityScope::Sample },
            shared_expert,
            subtract_input,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_layer_agrees_with_the_reference(
        config in any_config(), tokens in 1usize..9, samples in 1usize..5, samples_first: bool, seed: u64,
        mask in prop::option::of(prop::collection::vec(any::<bool>(), 32)),
        needed in prop::option::of(prop::collection::vec(any::<bool>(), 32)),
    ) {
        let layout = if samples_first { Layout::SamplesFirst } else { Layout::TokensFirst };
        let mut layer = Layer::random(config, tokens, samples, layout, seed);
        layer.row_mask = mask.map(|m| m[..tokens * samples].to_vec());
        layer.rows_needed = needed.map(|m| (0..tokens * samples).filter(|&row| m[row]).collect());
        check_against("any layer", &layer.run::<f64, f64>().unwrap(), &layer.reference().unwrap(), 1e-9, 1e-10);
    }
}
