//! Cases of kinds `clip` and `fair_moe_step`: a whole model, forward, and a step of its training backward.

use super::layer::{experts, gate};
use super::{Case, Results, check_room};
use crate::candle::{TensorGroups, fol};
use crate::config::{Activation, Capacity, MoeConfig};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::fol::{Distance, Fol, FolConfig, FolTerms};
use crate::model::{Clip, ClipConfig, ClipOutput, Mixtures, Preset, Subtract, TowerConfig, Weights};
use candle_core::{DType as Number, Device as Memory, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// What the names of a model's parameters begin with.
const PARAMETERS: [&str; 7] = [
    "vision_model.",
    "text_model.",
    "visual_projection.",
    "text_projection.",
    "vision_feature_moe.",
    "text_feature_moe.",
    "logit_scale",
];

/// A plain CLIP's forward pass.
pub(super) fn clip(case: &mut Case, dtype: DType, device: &Device) -> Result<Results> {
    let config = config(case)?;
    let clip = take_model(case, config, None, dtype, device)?;
    let out = forward(case, &clip, "", "samples")?;
    let mut results = Results::default();
    put_outputs(&mut results, &out)?;
    Ok(results)
}

/// A step of Fair-MoE's training: the forward passes of the batch and its groups, the loss, and every parameter's gradient.
pub(super) fn step(case: &mut Case, dtype: DType, device: &Device) -> Result<Results> {
    let config = config(case)?;
    let preset: Preset = case.named("preset")?;
    let groups = case.size_in("config", "groups")?;
    let mixtures = mixtures(case, preset, &config, groups)?;
    let loss = Fol::on(loss(case, preset)?, device.clone()).map_err(|why| case.error(why))?;
    let clip = take_model(case, config, Some(&mixtures), dtype, device)?;
    let out = forward(case, &clip, "", "samples")?;
    let others = (0..groups)
        .map(|g| forward(case, &clip, &format!("group{g}."), "group_samples")?.loss_input(&preset.gates()).map_err(Into::into));
    let others = others.collect::<Result<Vec<_>>>()?;
    let found = fol(&loss, &out.loss_input(&preset.gates())?, TensorGroups::Separate(&others))?;

    let mut results = Results::default();
    put_outputs(&mut results, &out)?;
    put_gates(&mut results, &out)?;
    let FolTerms { total, clip: clip_term, distance, dispersion, batch_variance } = found.state()?.terms;
    results.put_number("loss", total);
    results.put_number("loss.clip", clip_term);
    match preset {
        Preset::Paper => {
            results.put_number("loss.distance", distance);
            results.put_number("loss.dispersion", dispersion);
        }
        Preset::Authors => results.put_number("loss.fol", distance + dispersion + batch_variance),
    }
    let gradients = found.total.backward()?;
    // What the loss does not reach, such as a gate's parameters where nothing reads its weights, has a gradient of zero.
    let gradient = |_: &str, var: &candle_core::Var| gradients.get(var).map_or_else(|| Ok(var.zeros_like()?), |g| Ok(g.clone()));
    for (name, gradient) in clip.weights().export(gradient)? {
        put(&mut results, &format!("d.{name}"), &gradient)?;
    }
    Ok(results)
}

fn config(case: &Case) -> Result<ClipConfig> {
    let size = |member: &str| case.size_in("config", member);
    let tower = |name: &str| {
        let [width, layers, heads] = ["width", "layers", "heads"].map(|what| size(&format!("{name}_{what}")));
        Ok::<_, crate::Error>(TowerConfig { width: width?, layers: layers?, heads: heads? })
    };
    let config = ClipConfig {
        image: size("image")?,
        patch: size("patch")?,
        vision: tower("vision")?,
        context: size("context")?,
        vocabulary: size("vocab")?,
        text: tower("text")?,
        embed: size("embed")?,
        hidden_act: if case.has_setting("hidden_act") { case.named("hidden_act")? } else { Activation::QuickGelu },
    };
    config.check().map_err(|why| case.error(why))?;
    Ok(config)
}

/// The preset's mixtures, with everything that the case tells of them.
fn mixtures(case: &Case, preset: Preset, config: &ClipConfig, groups: usize) -> Result<Mixtures> {
    let preset = Mixtures::preset(preset, config, groups);
    let token = |moe: MoeConfig, tower: &str, layers: usize, capacity: &str| {
        let name = format!("{tower}.encoder.layers.{}.mlp.", layers - 1);
        Ok::<_, crate::Error>(MoeConfig {
            top_k: case.size("top_k")?,
            capacity: case.size_or_null(capacity)?.map_or(Capacity::None, Capacity::Fixed),
            renormalise: case.flag_or_false("renormalise")?,
            ..layer(case, moe, &name, case.size_in("config", "experts")?)?
        })
    };
    let mixtures = Mixtures {
        vision_token: token(preset.vision_token, "vision_model", config.vision.layers, "capacity_vision")?,
        text_token: token(preset.text_token, "text_model", config.text.layers, "capacity_text")?,
        vision_feature: layer(case, preset.vision_feature, "vision_feature_moe.", groups)?,
        text_feature: layer(case, preset.text_feature, "text_feature_moe.", groups)?,
        subtract: if case.flag("subtract_input")? { Subtract::LayerInput } else { Subtract::Nothing },
        ..preset
    };
    let all = [&mixtures.vision_token, &mixtures.text_token, &mixtures.vision_feature, &mixtures.text_feature];
    all.into_iter().try_for_each(|moe| moe.check().map_err(|why| case.error(why)))?;
    Ok(mixtures)
}

/// A preset's layer with the gate and the experts that stand in the case under `name`.
fn layer(case: &Case, preset: MoeConfig, name: &str, count: usize) -> Result<MoeConfig> {
    let width = case.shape(&format!("{name}experts.fc1.weight"), 3)?[1];
    let activation = preset.gate.hidden.map_or(Activation::Relu, |hidden| hidden.activation);
    Ok(MoeConfig {
        gate: gate(case, name, || Ok(activation))?,
        experts: experts(case, name, count, width)?,
        shared_expert: case.has(&format!("{name}shared.fc1.weight")),
        ..preset
    })
}

fn loss(case: &Case, preset: Preset) -> Result<FolConfig> {
    let lambda_dispersion = case.number("lambda_dispersion")?;
    let mut config = FolConfig { lambda_distance: case.number("lambda_distance")?, lambda_dispersion, ..preset.loss() };
    if let Distance::Sinkhorn { blur, scaling } = &mut config.distance {
        // The published code has one weight for both.
        config.lambda_batch_variance = lambda_dispersion;
        for (key, value) in [("blur", blur), ("scaling", scaling)] {
            if case.has_setting(key) {
                *value = case.number(key)?;
            }
        }
    }
    Ok(config)
}

/// Takes all parameters out of the case.
fn take_model(case: &mut Case, config: ClipConfig, mixtures: Option<&Mixtures>, dtype: DType, device: &Device) -> Result<Clip> {
    let all: Vec<(String, Vec<usize>)> = case.remaining().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
    let mut tensors = BTreeMap::new();
    for (name, shape) in all.into_iter().filter(|(name, _)| PARAMETERS.iter().any(|prefix| name.starts_with(prefix))) {
        tensors.insert(name.clone(), take_floats(case, &name, &shape, dtype)?);
    }
    let memory = if dtype == DType::F64 { Number::F64 } else { Number::F32 };
    let weights = Weights::import(&config, mixtures, memory, &tensors).map_err(|why| case.error(why))?;
    let own: BTreeSet<String> = weights.export(|_, var| Ok(var.as_detached_tensor()))?.into_keys().collect();
    if let Some(name) = tensors.keys().find(|name| !own.contains(*name)) {
        return Err(case.error(format!("tensor {name} is none of the parameters that this model has")));
    }
    let computing = match dtype {
        DType::F64 => Number::F64,
        DType::F32 => Number::F32,
        DType::F16 => Number::F16,
        DType::Bf16 => Number::BF16,
    };
    Clip::new(config, mixtures, weights)?.computing(computing).layers_on(device)
}

fn take_floats(case: &mut Case, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Ok(match dtype {
        DType::F64 => Tensor::from_vec(case.floats::<f64>(name, shape)?, shape, &Memory::Cpu)?,
        _ => Tensor::from_vec(case.floats::<f32>(name, shape)?, shape, &Memory::Cpu)?,
    })
}

/// Takes a batch out of the case, and encodes it. The setting `samples` tells its size; without it, the images do.
fn forward(case: &mut Case, clip: &Clip, prefix: &str, samples: &str) -> Result<ClipOutput> {
    let (image, ids) = (format!("{prefix}image"), format!("{prefix}ids"));
    let samples = if case.has_setting(samples) { case.size(samples)? } else { case.shape(&image, 4)?[0] };
    let config = *clip.config();
    let wide = clip.weights().dtype();
    for (tokens, tower) in [(config.image_tokens(), config.vision), (config.context, config.text)] {
        check_room::<f64>("the tokens", &[samples, tokens, tower.width, 4])?;
        check_room::<f64>("the attention scores", &[samples, tower.heads, tokens, tokens])?;
    }
    let dtype = if wide == Number::F64 { DType::F64 } else { DType::F32 };
    let pixels = take_floats(case, &image, &[samples, 3, config.image, config.image], dtype)?;
    let texts = case.integers(&ids, &[samples, config.context])?;
    if let Some(index) = texts.iter().position(|&id| id < 0 || id as u64 >= config.vocabulary as u64) {
        let vocabulary = config.vocabulary;
        return Err(case.error(format!(
            "tensor {ids} must hold ids from 0 to {}, but number {index} is {}",
            vocabulary - 1,
            texts[index]
        )));
    }
    let texts: Vec<Vec<u32>> = texts.chunks(config.context).map(|text| text.iter().map(|&id| id as u32).collect()).collect();
    Ok(clip.forward(&pixels, &texts)?)
}

fn put(results: &mut Results, name: &str, tensor: &Tensor) -> Result<()> {
    let values: Vec<f64> = tensor.to_dtype(Number::F64)?.flatten_all()?.to_vec1()?;
    results.put(name, tensor.dims(), &values);
    Ok(())
}

fn put_outputs(results: &mut Results, out: &ClipOutput) -> Result<()> {
    put(results, "image_embeds", &out.image.embedding)?;
    put(results, "text_embeds", &out.text.embedding)?;
    put(results, "logits", &out.cosine.broadcast_mul(&out.scale)?)
}

/// Final weights of the token mixtures as [T, B, E], probabilities of the feature mixtures.
fn put_gates(results: &mut Results, out: &ClipOutput) -> Result<()> {
    for (side, encoded) in [("image", &out.image), ("text", &out.text)] {
        let Some(gates) = &encoded.gates else { continue };
        put(results, &format!("gate.{side}_token"), &gates.token.weights.transpose(0, 1)?)?;
        put(results, &format!("gate.{side}_feature"), &gates.feature.probabilities)?;
    }
    Ok(())
}
