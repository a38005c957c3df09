//! The candle operations: the layer against recorded cases, both against finite differences.
#![cfg(feature = "candle")]

mod support;

use candle_core::{DType, Device, Tensor, Var};
use fair_moe::candle::{FolInput, GateTensor, MoeOutput, MoeRows, TensorGroups, fol, moe};
use fair_moe::{Capacity, Fol, FolConfig, Layout, Moe, MoeConfig, Param, Parameters};
use support::{Case, assert_close, relative_l2};

fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Numbers between -1 and 1 that look random and are the same each time.
fn noise(len: usize, seed: usize) -> Vec<f64> {
    (0..len).map(|i| ((i * 7919 + seed * 104729) as f64 * 0.618_033_988_7).fract() * 2.0 - 1.0).map(|v| (v * 9.0).sin()).collect()
}

/// The sum of the elementwise product.
fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).unwrap().sum_all().unwrap()
}

/// The gradient of `loss` at `at` by central differences.
fn differences(at: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let moved = |i: usize, by: f64| {
        let mut at = at.to_vec();
        at[i] += by;
        loss(&at)
    };
    (0..at.len()).map(|i| (moved(i, STEP) - moved(i, -STEP)) / (2.0 * STEP)).collect()
}

fn token_config(case: &Case) -> MoeConfig {
    let width = case.shape("x")[2];
    let mut config = MoeConfig::token_paper(width);
    let [experts, inner, _] = case.shape("experts.fc1.weight")[..] else { panic!() };
    (config.experts.count, config.experts.width) = (experts, inner);
    config.experts.activation = case.text("expert_activation").parse().unwrap();
    let hidden = config.gate.hidden.as_mut().unwrap();
    hidden.width = case.shape("gate.fc1.weight")[0];
    hidden.activation = case.text("gate_activation").parse().unwrap();
    config.top_k = case.size("top_k");
    config.capacity = Capacity::Fixed(case.size("capacity"));
    config.subtract_input = case.flag("subtract_input");
    config
}

fn flat_parameters(case: &Case, config: &MoeConfig) -> Vec<f64> {
    Param::ALL.into_iter().filter(|p| p.len(config) > 0).flat_map(|p| case.get(p.name()).to_vec()).collect()
}

#[test]
fn the_layer_agrees_with_the_recorded_case() {
    let case = Case::load("token_small");
    let config = token_config(&case);
    let layer = Moe::new(config.clone()).unwrap();
    let x = Var::from_tensor(&tensor(case.get("x"), case.shape("x"))).unwrap();
    let flat = flat_parameters(&case, &config);
    let flat = Var::from_tensor(&tensor(&flat, &[flat.len()])).unwrap();
    let out = moe(&layer, &x, &flat, MoeRows::new(Layout::TokensFirst)).unwrap();
    assert_close("y", &values(&out.y), case.get("y"), 1e-10);
    assert_close("weights", &values(&out.weights), case.get("weights"), 1e-10);
    assert_close("probabilities", &values(&out.probabilities), case.get("probabilities"), 1e-10);

    let dy = dot(&out.y, &tensor(case.get("dy"), case.shape("dy")));
    let loss = (dy + dot(&out.weights, &tensor(case.get("dweights"), case.shape("dweights")))).unwrap();
    let gradients = loss.backward().unwrap();
    assert_close("dx", &values(gradients.get(&x).unwrap()), case.get("dx"), 1e-10);
    let gradient = values(gradients.get(&flat).unwrap());
    let parts = Parameters::from_flat(&config, &gradient).unwrap();
    for p in Param::ALL.into_iter().filter(|p| p.len(&config) > 0) {
        assert_close(p.name(), parts[p], case.get(&format!("d.{}", p.name())), 1e-10);
    }
    let again = loss.backward().unwrap();
    assert_eq!(values(again.get(&flat).unwrap()), gradient);
}

/// A loss that reads all four outputs of a small layer.
fn of_everything(layer: &Moe, x: &Tensor, flat: &Tensor, rows: &MoeRows) -> Tensor {
    let MoeOutput { y, weights, probabilities, logits } = moe(layer, x, flat, rows.clone()).unwrap();
    let parts = [y, weights, probabilities, logits].into_iter().enumerate();
    let parts = parts.map(|(i, part)| dot(&part, &tensor(&noise(part.elem_count(), i), part.dims())));
    parts.reduce(|a, b| (a + b).unwrap()).unwrap()
}

#[test]
fn the_layers_gradients_agree_with_finite_differences() {
    let mut config = MoeConfig::token_paper(6);
    (config.experts.count, config.experts.width, config.top_k, config.capacity) = (4, 5, 2, Capacity::Fixed(2));
    config.gate.hidden.as_mut().unwrap().width = 3;
    let layer = Moe::new(config.clone()).unwrap();
    let shape = [2, 5, 6];
    let mut mask = vec![true; 10];
    mask[3] = false;
    for rows in [
        MoeRows::new(Layout::SamplesFirst),
        MoeRows::new(Layout::TokensFirst),
        MoeRows { row_mask: Some(mask), ..MoeRows::new(Layout::SamplesFirst) },
        MoeRows { rows_needed: Some(vec![0, 7]), ..MoeRows::new(Layout::SamplesFirst) },
    ] {
        let x = noise(60, 11);
        let flat = Parameters::<Vec<f64>>::init(&config, 3).unwrap();
        let flat: Vec<f64> = Param::ALL.into_iter().flat_map(|p| flat[p].clone()).collect();
        let (vx, vflat) =
            (Var::from_tensor(&tensor(&x, &shape)).unwrap(), Var::from_tensor(&tensor(&flat, &[flat.len()])).unwrap());
        let gradients = of_everything(&layer, &vx, &vflat, &rows).backward().unwrap();
        let scalar =
            |x: &[f64], flat: &[f64]| values(&of_everything(&layer, &tensor(x, &shape), &tensor(flat, &[flat.len()]), &rows))[0];
        assert_close("dx", &values(gradients.get(&vx).unwrap()), &differences(&x, |x| scalar(x, &flat)), 1e-6);
        assert_close("dflat", &values(gradients.get(&vflat).unwrap()), &differences(&flat, |flat| scalar(&x, flat)), 1e-6);
    }
}

#[test]
fn narrow_types_stay_close_to_f64() {
    let case = Case::load("token_small");
    let config = token_config(&case);
    let layer = Moe::new(config.clone()).unwrap();
    let (x, flat) = (tensor(case.get("x"), case.shape("x")), flat_parameters(&case, &config));
    let flat = tensor(&flat, &[flat.len()]);
    for (dtype, wide, bound) in
        [(DType::F32, DType::F32, 2e-5), (DType::BF16, DType::F32, 7e-3), (DType::F16, DType::F32, 1.5e-3)]
    {
        let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
        let flat = Var::from_tensor(&flat.to_dtype(dtype).unwrap()).unwrap();
        let out = moe(&layer, &x, &flat, MoeRows::new(Layout::TokensFirst)).unwrap();
        assert_eq!((out.y.dtype(), out.weights.dtype()), (dtype, wide));
        assert_close("y", &values(&out.y), case.get("y"), bound);
        let y = out.y.to_dtype(DType::F64).unwrap();
        let weights = out.weights.to_dtype(DType::F64).unwrap();
        let dy = dot(&y, &tensor(case.get("dy"), case.shape("dy")));
        let loss = (dy + dot(&weights, &tensor(case.get("dweights"), case.shape("dweights")))).unwrap();
        let gradients = loss.backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().dtype(), dtype);
        assert_close("dx", &values(gradients.get(&x).unwrap()), case.get("dx"), bound);
    }
}

#[test]
fn the_cpus_tensors_are_the_hosts() {
    assert!(fair_moe::candle::device(&fair_moe::Device::cpu()).unwrap().is_cpu());
}

#[test]
fn outputs_that_nothing_reads_have_no_gradient_and_need_none() {
    let mut config = MoeConfig::token_paper(6);
    (config.experts.count, config.experts.width, config.top_k, config.capacity) = (4, 5, 2, Capacity::Fixed(2));
    let layer = Moe::new(config.clone()).unwrap();
    let flat = Parameters::<Vec<f64>>::init(&config, 3).unwrap();
    let flat: Vec<f64> = Param::ALL.into_iter().flat_map(|p| flat[p].clone()).collect();
    let (flat, x) = (Var::from_tensor(&tensor(&flat, &[flat.len()])).unwrap(), tensor(&noise(60, 11), &[2, 5, 6]));
    let out = moe(&layer, &x, &flat, MoeRows::new(Layout::SamplesFirst)).unwrap();
    let of = |loss: Tensor| values(loss.backward().unwrap().get(&flat).unwrap());
    let by = |part: &Tensor| dot(part, &tensor(&noise(part.elem_count(), 5), part.dims()));
    let (of_y, of_logits) = (of(by(&out.y)), of(by(&out.logits)));
    // Each pass alone, whichever came before; and together they are their sum.
    assert_eq!(of(by(&out.y)), of_y);
    let sum: Vec<f64> = of_y.iter().zip(&of_logits).map(|(a, b)| a + b).collect();
    assert_close("both", &of((by(&out.y) + by(&out.logits)).unwrap()), &sum, 1e-12);
}

#[test]
fn bad_input_is_an_error() {
    let layer = Moe::new(MoeConfig::token_paper(8)).unwrap();
    let x = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu).unwrap();
    let rows = MoeRows::new(Layout::TokensFirst);
    let short = Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap();
    let error = moe(&layer, &x, &short, rows.clone()).unwrap_err().to_string();
    assert!(error.contains("the flat parameters must have shape"), "{error}");
    moe(&layer, &x.to_dtype(DType::U8).unwrap(), &short, rows.clone()).unwrap_err();
    moe(&layer, &x.flatten_all().unwrap(), &short, rows.clone()).unwrap_err();
    moe(&layer, &x, &short.to_dtype(DType::F64).unwrap(), rows).unwrap_err();
}

/// A batch of `samples` with a token gate [B, 3, 4] and a feature gate [1, B, 3], cut out of `flat`.
fn batch(flat: &Tensor, samples: usize) -> FolInput {
    let mut start = 0;
    let mut cut = |shape: &[usize]| {
        let part = flat.narrow(0, start, shape.iter().product()).unwrap().reshape(shape).unwrap();
        start += part.elem_count();
        part
    };
    let (similarity, scale) = (cut(&[samples, samples]), cut(&[]));
    let mask = (0..3 * samples).map(|row| row % 4 != 3).collect();
    let token = GateTensor { weights: cut(&[samples, 3, 4]), layout: Layout::SamplesFirst, row_mask: Some(mask) };
    let feature = GateTensor { weights: cut(&[1, samples, 3]), layout: Layout::TokensFirst, row_mask: None };
    FolInput { similarity, scale, gates: vec![token, feature] }
}

fn len(samples: usize) -> usize {
    samples * samples + 1 + samples * 12 + samples * 3
}

fn strong(config: FolConfig) -> Fol {
    Fol::new(FolConfig { lambda_distance: 2.0, lambda_dispersion: 3.0, ..config }).unwrap()
}

#[test]
fn the_losss_gradients_agree_with_finite_differences() {
    let at = noise(len(6), 5);
    let ids = [0, 1, -1, 0, 1, 1];
    for config in [FolConfig::paper(), FolConfig { group_gradient: true, ..FolConfig::paper() }] {
        let loss = strong(config.clone());
        let groups = TensorGroups::Ids { ids: &ids, count: 2 };
        let var = Var::from_tensor(&tensor(&at, &[at.len()])).unwrap();
        let found = fol(&loss, &batch(&var, 6), groups).unwrap();
        assert_eq!(values(&found.total)[0], found.state().unwrap().terms.total);
        let gradient = values((found.total * 0.5).unwrap().backward().unwrap().get(&var).unwrap());
        if config.group_gradient {
            let half =
                |at: &[f64]| 0.5 * fol(&loss, &batch(&tensor(at, &[at.len()]), 6), groups).unwrap().state().unwrap().terms.total;
            assert_close("ids", &gradient, &differences(&at, half), 1e-6);
        }
    }
}

#[test]
fn separate_groups_get_gradients_only_when_asked_for() {
    let (at, other) = (noise(len(5), 6), noise(len(4), 7));
    for group_gradient in [false, true] {
        let loss = strong(FolConfig { group_gradient, ..FolConfig::paper() });
        let total =
            |at: &Tensor, other: &Tensor| fol(&loss, &batch(at, 5), TensorGroups::Separate(&[batch(other, 4)])).unwrap().total;
        let (var, group) =
            (Var::from_tensor(&tensor(&at, &[at.len()])).unwrap(), Var::from_tensor(&tensor(&other, &[other.len()])).unwrap());
        let gradients = total(&var, &group).backward().unwrap();
        let scalar = |at: &[f64], other: &[f64]| values(&total(&tensor(at, &[at.len()]), &tensor(other, &[other.len()])))[0];
        assert_close("batch", &values(gradients.get(&var).unwrap()), &differences(&at, |at| scalar(at, &other)), 1e-6);
        let wanted = differences(&other, |other| scalar(&at, other));
        match gradients.get(&group) {
            Some(gradient) if group_gradient => assert_close("group", &values(gradient), &wanted, 1e-6),
            Some(gradient) => assert!(relative_l2(&values(gradient), &vec![0.0; other.len()]) == 0.0),
            None => assert!(!group_gradient),
        }
    }
}
