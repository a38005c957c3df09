//! The experts: initialisation, gradients of experts that nobody chose, and bounds of the work.

mod support;

use fair_moe::*;
use support::assert_close;
use support::layer::Layer;

#[test]
fn initialised_as_pytorch_initialises_linear_maps() {
    let config = MoeConfig::token_paper(64);
    let parameters = Parameters::<Vec<f64>>::init(&config, 3).unwrap();
    for (p, fan_in) in [
        (Param::GateFc1Weight, 64.0),
        (Param::GateFc2Weight, 16.0),
        (Param::ExpertsFc1Weight, 64.0),
        (Param::ExpertsFc1Bias, 64.0),
        (Param::ExpertsFc2Weight, 256.0),
    ] {
        // Uniform in ±1/√fan_in has variance 1/(3·fan_in).
        let (values, bound) = (&parameters[p], 1.0 / f64::sqrt(fan_in));
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        assert!(values.iter().all(|v| v.abs() <= bound), "{}", p.name());
        assert!((variance * 3.0 * fan_in - 1.0).abs() < 0.1, "{}: variance {variance}", p.name());
    }
    assert_eq!(parameters, Parameters::init(&config, 3).unwrap(), "one seed, one layer");
    assert_ne!(parameters, Parameters::init(&config, 4).unwrap());
}

#[test]
fn copies_of_a_trained_network_compute_what_it_computes() {
    let mut layer =
        Layer::random(MoeConfig { shared_expert: true, ..MoeConfig::feature_paper(8, 3) }, 1, 5, Layout::TokensFirst, 2);
    let network = Layer::random(MoeConfig::feature_paper(8, 1), 1, 1, Layout::TokensFirst, 9).parameters;
    let parts = [Param::ExpertsFc1Weight, Param::ExpertsFc1Bias, Param::ExpertsFc2Weight, Param::ExpertsFc2Bias];
    let [w1, b1, w2, b2] = parts.map(|p| network[p].clone());
    let config = layer.config.clone();
    assert!(layer.parameters.copy_mlp(&config, &w1[1..], &b1, &w2, &b2).is_err());
    layer.parameters.copy_mlp(&config, &w1, &b1, &w2, &b2).unwrap();
    // The dense mixture's weights sum to 1, and the shared expert adds the network once more.
    let act = config.experts.activation;
    for (x, y) in layer.x.chunks(8).zip(layer.run::<f64, f64>().unwrap().y.chunks(8)) {
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        let h: Vec<f64> = (0..32).map(|f| act.value(dot(&w1[f * 8..][..8], x) + b1[f])).collect();
        let want: Vec<f64> = (0..8).map(|o| 2.0 * (dot(&w2[o * 32..][..32], &h) + b2[o])).collect();
        assert_close("y", y, &want, 1e-12);
    }
}

#[test]
fn an_expert_that_nobody_chose_has_gradients_of_zero() {
    let mut layer = Layer::random(MoeConfig::token_paper(8), 6, 2, Layout::TokensFirst, 2);
    layer.parameters[Param::GateFc2Bias] = (0..10).map(|e| if e < 3 { 100.0 } else { 0.0 }).collect();
    for results in [layer.run::<f32, f32>().unwrap(), layer.run::<half::bf16, f32>().unwrap()] {
        for p in [Param::ExpertsFc1Weight, Param::ExpertsFc1Bias, Param::ExpertsFc2Weight, Param::ExpertsFc2Bias] {
            let each = p.len(&layer.config) / 10;
            assert!(results.gradients[p][..each].iter().any(|&g| g != 0.0), "{}", p.name());
            assert!(results.gradients[p][3 * each..].iter().all(|&g| g == 0.0), "{}", p.name());
        }
    }
}

#[test]
fn all_rows_to_one_expert() {
    let mut layer = Layer::random(
        MoeConfig { capacity: Capacity::None, top_k: 1, ..MoeConfig::token_paper(8) },
        70,
        3,
        Layout::TokensFirst,
        2,
    );
    layer.parameters[Param::GateFc2Bias][4] = 1000.0;
    let (got, want) = (layer.run::<f64, f64>().unwrap(), layer.reference().unwrap());
    assert_eq!(got.routing.expert_offsets, [0, 0, 0, 0, 0, 210, 210, 210, 210, 210, 210]);
    assert_close("y", &got.y, &want.y, 1e-12);
    assert_close("dx", &got.dx, &want.dx, 1e-12);
    for p in Param::ALL {
        assert_close(p.name(), &got.gradients[p], &want.gradients[p], 1e-10);
    }
}
