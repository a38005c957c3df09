//! The reference model against recorded cases, and its gradients.
#![cfg(feature = "model")]

mod support;

use candle_core::{DType, Device, Tensor};
use fair_moe::candle::{TensorGroups, fol};
use fair_moe::model::{
    Clip, ClipConfig, ClipOutput, GateChoice, GateName, GateRows, GateValue, Mixtures, Preset, Subtract, TowerConfig, Weights,
};
use fair_moe::{Activation, Capacity, Fol, FolConfig};
use std::collections::BTreeMap;
use support::{Case, assert_close};

fn config(case: &Case) -> ClipConfig {
    let size = |key: &str| case.settings["config"][key].as_u64().unwrap() as usize;
    let tower = |name: &str| TowerConfig {
        width: size(&format!("{name}_width")),
        layers: size(&format!("{name}_layers")),
        heads: size(&format!("{name}_heads")),
    };
    ClipConfig {
        image: size("image"),
        patch: size("patch"),
        vision: tower("vision"),
        context: size("context"),
        vocabulary: size("vocab"),
        text: tower("text"),
        embed: size("embed"),
        hidden_act: Activation::QuickGelu,
    }
}

fn tensor(case: &Case, name: &str) -> Tensor {
    Tensor::from_slice(case.get(name), case.shape(name), &Device::Cpu).unwrap()
}

fn tensors(case: &Case) -> BTreeMap<String, Tensor> {
    case.tensors.keys().map(|name| (name.clone(), tensor(case, name))).collect()
}

fn ids(case: &Case, name: &str) -> Vec<Vec<u32>> {
    let context = case.shape(name)[1];
    case.get(name).chunks(context).map(|text| text.iter().map(|&id| id as u32).collect()).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn clip_agrees_with_the_recorded_case() {
    let case = Case::load("clip_tiny");
    let config = config(&case);
    let weights = Weights::import(&config, None, DType::F64, &tensors(&case)).unwrap();
    let out = Clip::new(config, None, weights).unwrap().forward(&tensor(&case, "image"), &ids(&case, "ids")).unwrap();
    assert_close("image_embeds", &values(&out.image.embedding), case.get("image_embeds"), 1e-10);
    assert_close("text_embeds", &values(&out.text.embedding), case.get("text_embeds"), 1e-10);
    let logits = out.cosine.broadcast_mul(&out.scale).unwrap();
    assert_close("logits", &values(&logits), case.get("logits"), 1e-10);
}

#[test]
fn a_frozen_model_says_the_same_without_gradients_also_after_its_parameters_change() {
    let case = Case::load("clip_tiny");
    let config = config(&case);
    let mixtures = Mixtures::preset(Preset::Paper, &config, 3);
    let weights = Weights::init(&config, Some(&mixtures), DType::F32, 7).unwrap();
    let clip = Clip::new(config, Some(&mixtures), weights).unwrap();
    let frozen = clip.frozen();
    let (pixels, texts) = (tensor(&case, "image").to_dtype(DType::F32).unwrap(), ids(&case, "ids"));
    let both = || [&clip, &frozen].map(|clip| clip.forward(&pixels, &texts).unwrap().cosine);
    let [before, frozen_before] = both();
    assert_eq!(values(&before), values(&frozen_before));
    assert!(before.track_op() && !frozen_before.track_op());
    for (_, var) in clip.weights().iter() {
        var.set(&(var.as_tensor().detach() * 1.1).unwrap()).unwrap();
    }
    let [after, frozen_after] = both();
    assert_ne!(values(&before), values(&after));
    assert_eq!(values(&after), values(&frozen_after));
}

#[test]
fn every_parameter_of_a_plain_clip_gets_a_gradient() {
    let case = Case::load("clip_tiny");
    let config = config(&case);
    let weights = Weights::init(&config, None, DType::F64, 7).unwrap();
    let clip = Clip::new(config, None, weights).unwrap();
    let out = clip.forward(&tensor(&case, "image"), &ids(&case, "ids")).unwrap();
    let logits = out.cosine.broadcast_mul(&out.scale).unwrap();
    let loss = candle_nn::ops::log_softmax(&logits, 1).unwrap();
    let gradients = loss.get(0).unwrap().get(0).unwrap().backward().unwrap();
    for (name, var) in clip.weights().iter() {
        let gradient = values(gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient")));
        assert!(gradient.iter().any(|g| *g != 0.0), "{name} has a gradient of zero");
    }
}

fn mixtures(case: &Case, preset: Preset, config: &ClipConfig, prune: bool) -> Mixtures {
    let size = |key: &str| case.settings["config"][key].as_u64().unwrap() as usize;
    let mut mixtures = Mixtures::preset(preset, config, size("groups"));
    mixtures.prune = prune;
    mixtures.route_padding = case.settings.get("route_padding").is_none_or(|v| v.as_bool().unwrap());
    mixtures.feature_residual = case.flag("feature_residual");
    for (moe, capacity) in [(&mut mixtures.vision_token, "capacity_vision"), (&mut mixtures.text_token, "capacity_text")] {
        let capacity = case.settings[capacity].as_u64().map_or(Capacity::None, |rows| Capacity::Fixed(rows as usize));
        (moe.experts.count, moe.top_k, moe.capacity) = (size("experts"), case.size("top_k"), capacity);
        assert_eq!(moe.experts.activation.name(), case.text("expert_activation"));
    }
    match case.settings.get("subtract") {
        Some(named) => mixtures.subtract = serde_json::from_value(named.clone()).unwrap(),
        None => assert_eq!(mixtures.subtract == Subtract::LayerInput, case.flag("subtract_input")),
    }
    mixtures
}

/// The gates as recorded: [T, B, E] and [B, E].
fn gates(out: &ClipOutput) -> [(&'static str, Vec<f64>); 4] {
    let tokens_first = |t: &Tensor| values(&t.transpose(0, 1).unwrap());
    let (image, text) = (out.image.gates.as_ref().unwrap(), out.text.gates.as_ref().unwrap());
    [
        ("gate.image_token", tokens_first(&image.token.weights)),
        ("gate.text_token", tokens_first(&text.token.weights)),
        ("gate.image_feature", values(&image.feature.weights)),
        ("gate.text_feature", values(&text.feature.weights)),
    ]
}

fn step_agrees(preset: Preset, name: &str, prune: bool, bound: f64) {
    let case = Case::load(name);
    let config = config(&case);
    let mixtures = mixtures(&case, preset, &config, prune);
    let weights = Weights::import(&config, Some(&mixtures), DType::F64, &tensors(&case)).unwrap();
    let clip = Clip::new(config, Some(&mixtures), weights).unwrap();
    let forward = |side: &str| clip.forward(&tensor(&case, &format!("{side}image")), &ids(&case, &format!("{side}ids"))).unwrap();
    let out = forward("");
    assert_close("image_embeds", &values(&out.image.embedding), case.get("image_embeds"), 1e-10);
    assert_close("text_embeds", &values(&out.text.embedding), case.get("text_embeds"), 1e-10);
    for (name, gate) in gates(&out) {
        assert_close(name, &gate, case.get(name), 1e-10);
    }

    let (lambda_distance, lambda_dispersion) = (case.number("lambda_distance"), case.number("lambda_dispersion"));
    let lambda_batch_variance = if preset == Preset::Authors { lambda_dispersion } else { 0.0 };
    let loss = Fol::new(FolConfig { lambda_distance, lambda_dispersion, lambda_batch_variance, ..preset.loss() }).unwrap();
    let groups = [0, 1, 2].map(|g| forward(&format!("group{g}.")).loss_input(&preset.gates()).unwrap());
    let found = fol(&loss, &out.loss_input(&preset.gates()).unwrap(), TensorGroups::Separate(&groups)).unwrap();
    assert_close("loss", &values(&found.total), case.get("loss"), bound);
    assert_close("loss.clip", &[found.state().unwrap().terms.clip], case.get("loss.clip"), 1e-10);

    gradients_agree(&clip, &found.total, &case, bound);
}

/// Every parameter's gradient of `total` is the recorded one.
fn gradients_agree(clip: &Clip, total: &Tensor, case: &Case, bound: f64) {
    let gradients = total.backward().unwrap();
    let gradients = clip
        .weights()
        .export(|name, var| Ok(gradients.get(var).unwrap_or_else(|| panic!("{name}: no gradient")).clone()))
        .unwrap();
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let largest = gradients.keys().map(|name| norm(case.get(&format!("d.{name}")))).fold(0.0, f64::max);
    for (name, gradient) in &gradients {
        let want = case.get(&format!("d.{name}"));
        let error: Vec<f64> = values(gradient).iter().zip(want).map(|(g, w)| g - w).collect();
        // Gradients that are zero are measured against a thousandth of the largest.
        let error = norm(&error) / norm(want).max(1e-3 * largest);
        assert!(error <= bound, "d.{name}: relative L2 error {error:.3e} is above {bound:.1e}");
    }
}

/// Axes that no preset has: what the loss reads of the gates is a setting too, and the batch's own variance is all of it here.
fn axes_agree(name: &str, of: GateValue, rows: GateRows) {
    let case = Case::load(name);
    assert_eq!(
        (serde_json::to_value(of).unwrap(), serde_json::to_value(rows).unwrap()),
        (case.settings["of"].clone(), case.settings["rows"].clone())
    );
    let config = config(&case);
    for prune in [true, false] {
        let mixtures = mixtures(&case, Preset::Paper, &config, prune);
        let weights = Weights::import(&config, Some(&mixtures), DType::F64, &tensors(&case)).unwrap();
        let clip = Clip::new(config, Some(&mixtures), weights).unwrap();
        let out = clip.forward(&tensor(&case, "image"), &ids(&case, "ids")).unwrap();
        assert_close("image_embeds", &values(&out.image.embedding), case.get("image_embeds"), 1e-10);
        assert_close("text_embeds", &values(&out.text.embedding), case.get("text_embeds"), 1e-10);
        for (name, gate) in gates(&out) {
            assert_close(name, &gate, case.get(name), 1e-10);
        }
        let variance =
            FolConfig { lambda_distance: 0.0, lambda_dispersion: 0.0, lambda_batch_variance: 1.0, ..FolConfig::paper() };
        let input = out.loss_input(&GateChoice { gates: GateName::ALL.to_vec(), of, rows }).unwrap();
        let found = fol(&Fol::new(variance).unwrap(), &input, TensorGroups::Separate(&[])).unwrap();
        assert_close("loss", &values(&found.total), case.get("loss"), 1e-10);
        gradients_agree(&clip, &found.total, &case, 1e-10);
    }
}

#[test]
fn no_residual_no_routed_padding_and_the_variance_of_selected_rows_agree_with_the_recorded_case() {
    axes_agree("axes_no_residual", GateValue::Weights, GateRows::Selected);
}

#[test]
fn no_routed_padding_and_the_variance_of_probabilities_agree_with_the_recorded_case() {
    axes_agree("axes_probabilities", GateValue::Probabilities, GateRows::NotPadding);
}

#[test]
fn a_step_of_the_papers_fair_moe_agrees_with_the_recorded_case() {
    step_agrees(Preset::Paper, "step_paper", true, 1e-10);
    step_agrees(Preset::Paper, "step_paper", false, 1e-10);
}

#[test]
fn a_step_of_the_authors_fair_moe_agrees_with_the_recorded_case() {
    step_agrees(Preset::Authors, "step_authors", true, 1e-6);
    step_agrees(Preset::Authors, "step_authors", false, 1e-6);
}

#[test]
fn every_parameter_of_a_fair_moe_gets_a_gradient() {
    let case = Case::load("clip_tiny");
    let config = config(&case);
    let mixtures = Mixtures::preset(Preset::Paper, &config, 3);
    let weights = Weights::init(&config, Some(&mixtures), DType::F64, 7).unwrap();
    let clip = Clip::new(config, Some(&mixtures), weights).unwrap();
    let out = clip.forward(&tensor(&case, "image"), &ids(&case, "ids")).unwrap();
    let loss = Fol::new(FolConfig::paper()).unwrap();
    let found = fol(&loss, &out.loss_input(&Preset::Paper.gates()).unwrap(), TensorGroups::Separate(&[])).unwrap();
    let gradients = found.total.backward().unwrap();
    for (name, var) in clip.weights().iter() {
        let gradient = values(gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient")));
        assert!(gradient.iter().any(|g| *g != 0.0), "{name} has a gradient of zero");
    }
}

#[test]
fn a_sample_is_encoded_alone_as_among_others() {
    // So large that samples pass the towers a few at a time.
    let tower = TowerConfig { width: 16, layers: 2, heads: 4 };
    let config = ClipConfig { vision: tower, text: tower, ..ClipConfig::tiny(77, 20) };
    let mixtures = Mixtures::preset(Preset::Paper, &config, 3);
    let weights = Weights::init(&config, Some(&mixtures), DType::F64, 5).unwrap();
    let clip = Clip::new(config, Some(&mixtures), weights).unwrap();
    let numbers: Vec<f64> = (0..5 * 3 * 64 * 64).map(|i| (i as f64 * 0.37).sin()).collect();
    let pixels = Tensor::from_vec(numbers, (5, 3, 64, 64), &Device::Cpu).unwrap();
    let ids: Vec<Vec<u32>> =
        (0..5).map(|b| (0..77).map(|t| if t == 20 * b { 19 } else { (3 * b + t) as u32 % 19 }).collect()).collect();
    let all = clip.forward(&pixels, &ids).unwrap();
    for b in 0..5 {
        let one = clip.forward(&pixels.narrow(0, b, 1).unwrap(), &ids[b..=b]).unwrap();
        for (one, all) in [(&one.image, &all.image), (&one.text, &all.text)] {
            let same = |what: &str, one: &Tensor, all: Tensor| assert_close(what, &values(one), &values(&all), 1e-12);
            same("embedding", &one.embedding, all.embedding.narrow(0, b, 1).unwrap());
            let (one, all) = (one.gates.as_ref().unwrap(), all.gates.as_ref().unwrap());
            same("token gate", &one.token.weights, all.token.weights.narrow(0, b, 1).unwrap());
            same("feature gate", &one.feature.weights, all.feature.weights.narrow(0, b, 1).unwrap());
        }
    }
}
