//! Pretrained weights, as PyTorch and transformers wrote them (tests/data/make_checkpoints.py).
#![cfg(feature = "model")]

mod support;

use candle_core::{DType, Device, Tensor};
use fair_moe::model::*;
use fair_moe::train::SavedModel;
use fair_moe::{Activation, Capacity};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use support::{Case, assert_close};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&data(name)).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn load(file: &Checkpoint, mixtures: Option<&Mixtures>, from: ExpertsFrom) -> fair_moe::Result<(Weights, LoadReport)> {
    Weights::from_checkpoint(&file.config().unwrap(), mixtures, DType::F64, file, from, 7)
}

/// Every parameter of a model under its name in files.
fn export(weights: &Weights) -> BTreeMap<String, Tensor> {
    weights.export(|_, var| Ok(var.as_detached_tensor())).unwrap()
}

/// What PyTorch computes from these weights, and what we do.
fn assert_forward(name: &str, expected: &str) {
    let (file, case) = (open(name), Case::load(expected));
    let (weights, _) = load(&file, None, ExpertsFrom::Fresh).unwrap();
    let model = Clip::new(file.config().unwrap(), None, weights).unwrap();
    let pixels = Tensor::from_slice(case.get("pixels"), case.shape("pixels"), &Device::Cpu).unwrap();
    let ids: Vec<Vec<u32>> =
        case.get("ids").chunks(case.shape("ids")[1]).map(|text| text.iter().map(|&id| id as u32).collect()).collect();
    let out = model.forward(&pixels, &ids).unwrap();
    assert_close("image_embeds", &values(&out.image.embedding), case.get("image_embeds"), 1e-10);
    assert_close("text_embeds", &values(&out.text.embedding), case.get("text_embeds"), 1e-10);
    assert_close("logits", &values(&out.cosine.broadcast_mul(&out.scale).unwrap()), case.get("logits"), 1e-10);
}

fn assert_expected(file: &Checkpoint, expected: &str) {
    for (name, (shape, want)) in &Case::load(expected).tensors {
        let name = if name.contains('.') || name == "logit_scale" { name.clone() } else { format!("vision_model.{name}") };
        let got = file.tensor(&name).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(got.dims(), &shape[..], "{name}");
        assert_eq!(&values(&got), want, "{name}");
    }
}

#[test]
fn an_archive_of_openai_gives_the_model_that_pytorch_saved() {
    let file = open("checkpoint_openai.pt");
    let tower = TowerConfig { width: 64, layers: 1, heads: 1 };
    let sizes = ClipConfig {
        image: 16,
        patch: 8,
        vision: tower,
        context: 7,
        vocabulary: 30,
        text: tower,
        embed: 16,
        ..ClipConfig::vit_b16()
    };
    assert_eq!(file.config().unwrap(), sizes);
    assert_forward("checkpoint_openai.pt", "checkpoint_openai_expected");
    let (_, report) = load(&file, None, ExpertsFrom::Fresh).unwrap();
    assert_eq!(report.buffers, ["input_resolution", "vocab_size"]);
    assert!(report.missing.is_empty() && report.wrong_shape.is_empty() && report.unused.is_empty(), "{report}");
    assert_eq!(
        report.matched["vision_model.encoder.layers.0.self_attn.k_proj.bias"],
        ["visual.transformer.resblocks.0.attn.in_proj_bias"]
    );
    assert_eq!(report.matched["text_projection.weight"], ["text_projection"]);
}

#[test]
fn a_folder_of_transformers_gives_the_model_that_it_saved() {
    let file = open("checkpoint_huggingface/model.safetensors");
    let config = file.config().unwrap();
    assert_eq!((config.vision.heads, config.vision.layers, config.text.heads), (4, 2, 2));
    assert_eq!(config.hidden_act, Activation::Gelu);
    assert_forward("checkpoint_huggingface/model.safetensors", "checkpoint_huggingface_expected");
}

#[test]
fn without_its_config_a_file_has_heads_of_width_64_or_none_that_can_be_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::copy(data("checkpoint_huggingface/model.safetensors"), &path).unwrap();
    let error = Checkpoint::open(&path).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("the width of vision_model must be a multiple of 64, a head's, but is 32"), "{error}");
    std::fs::write(
        folder.path().join("config.json"),
        r#"{"vision_config": {"num_attention_heads": 4}, "text_config": {"num_attention_heads": 2, "hidden_act": "gelu_new"}}"#,
    )
    .unwrap();
    let error = Checkpoint::open(&path).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn a_checkpoint_of_fair_moe_is_read_under_its_second_names_too() {
    let file = open("checkpoint_fairmoe.pth");
    assert_expected(&file, "checkpoint_fairmoe_expected");
    let tower = |layers| TowerConfig { width: 16, layers, heads: 2 };
    let config = ClipConfig {
        image: 16,
        patch: 8,
        vision: tower(2),
        context: 5,
        vocabulary: 12,
        text: tower(1),
        embed: 8,
        ..ClipConfig::vit_b16()
    };
    let mut mixtures = Mixtures::preset(Preset::Authors, &config, 2);
    mixtures.vision_token.experts.count = 3;
    mixtures.text_token.experts.count = 3;
    let (_, report) = Weights::from_checkpoint(&config, Some(&mixtures), DType::F32, &file, ExpertsFrom::Fresh, 7).unwrap();
    assert!(report.missing.is_empty() && report.wrong_shape.is_empty() && report.unused.is_empty(), "{report}");
    let keys = &report.matched["vision_model.encoder.layers.1.mlp.experts.fc1.bias"];
    assert_eq!(keys.len(), 6);
    assert!(keys.contains(&"tokenmoe11.experts.2.network.c_fc.bias".to_owned()), "{keys:?}");
    // Another number of groups than the file's: those parts start fresh, and it is said.
    let four = Mixtures { text_feature: fair_moe::MoeConfig::feature_authors(8, 4), ..mixtures };
    let (_, report) = Weights::from_checkpoint(&config, Some(&four), DType::F32, &file, ExpertsFrom::Fresh, 7).unwrap();
    let wrong = &report.wrong_shape["text_feature_moe.experts.fc1.weight"];
    assert_eq!((&wrong.expected[..], &wrong.found[..], &wrong.instead), (&[4, 32, 8][..], &[2, 32, 8][..], &Instead::Fresh));
    // A plain CLIP cannot do without the MLP that the mixture replaced.
    let error = Weights::from_checkpoint(&config, None, DType::F32, &file, ExpertsFrom::Fresh, 7).unwrap_err().to_string();
    assert!(error.contains("missing: text_model.encoder.layers.0.mlp.fc1.bias, "), "{error}");
}

#[test]
fn names_of_one_parameter_that_disagree_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let tensor = |x: f32| Tensor::full(x, 3, &Device::Cpu).unwrap();
    let write = |second: f32| {
        let tensors =
            [("visual.transformer.resblocks.4.mlp.gate.2.bias", tensor(1.0)), ("tokenmoe11.gate.2.bias", tensor(second))];
        write_tensors(&path, &tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into(), String::new()).unwrap();
        Checkpoint::open(&path)
    };
    assert_eq!(values(&write(1.0).unwrap().tensor("vision_model.encoder.layers.4.mlp.gate.fc2.bias").unwrap()), [1.0; 3]);
    let error = write(1.5).unwrap_err().to_string();
    assert!(error.contains("are names of one parameter, but their numbers differ"), "{error}");
}

#[test]
fn tensors_that_share_transpose_and_skip_numbers_are_read_as_pytorch_reads_them() {
    for name in ["checkpoint_views.pth", "checkpoint_views_protocol4.pth"] {
        assert_expected(&open(name), "checkpoint_views_expected");
    }
    let long = open("checkpoint_views.pth").tensor("vision_model.long").unwrap();
    assert_eq!(long.to_vec1::<i64>().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn a_parameter_of_whole_numbers_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let (weights, _) = load(&open("checkpoint_openai.pt"), None, ExpertsFrom::Fresh).unwrap();
    let mut tensors = export(&weights);
    tensors.insert("logit_scale".into(), Tensor::new(4i64, &Device::Cpu).unwrap());
    write_tensors(&path, &tensors, String::new()).unwrap();
    let error = load(&Checkpoint::open(&path).unwrap(), None, ExpertsFrom::Fresh).unwrap_err().to_string();
    assert!(error.ends_with("logit_scale must be floating-point numbers, but is i64"), "{error}");
}

#[test]
fn models_of_others_are_opened_and_written_under_hugging_faces_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["checkpoint_openai.pt", "checkpoint_huggingface/model.safetensors"] {
        let path = folder.path().join("a.safetensors");
        let (model, report) = SavedModel::open(&data(name)).unwrap();
        assert_eq!(report.lacks().count(), 0);
        model.write(&path).unwrap();
        let again = SavedModel::load(&path).unwrap();
        assert_eq!((&again.card, again.clip.config()), (&model.card, &open(name).config().unwrap()));
        let (before, after) = (export(model.clip.weights()), export(again.clip.weights()));
        assert_eq!(Checkpoint::open(&path).unwrap().names().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(before.iter().all(|(name, tensor)| values(tensor) == values(&after[name])));
    }
    let error = SavedModel::open(&data("checkpoint_fairmoe.pth")).map(drop).unwrap_err().to_string();
    assert!(error.contains("must be a multiple of 64"), "{error}");
}

#[test]
fn experts_start_as_copies_of_the_mlp_that_they_replace_and_the_rest_fresh() {
    let file = open("checkpoint_openai.pt");
    let config = file.config().unwrap();
    let mixtures = Mixtures::preset(Preset::Paper, &config, 3);
    let (weights, report) = load(&file, Some(&mixtures), ExpertsFrom::Replaced).unwrap();
    let (parameters, fresh) = (export(&weights), export(&Weights::init(&config, Some(&mixtures), DType::F64, 7).unwrap()));
    let mlp = "vision_model.encoder.layers.0.mlp";
    for part in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
        let source = values(&file.tensor(&format!("{mlp}.{part}")).unwrap());
        let experts = values(&parameters[&format!("{mlp}.experts.{part}")]);
        assert!(experts.len() == 10 * source.len() && experts.chunks(source.len()).all(|expert| expert == source), "{part}");
        assert_eq!(report.missing[&format!("{mlp}.experts.{part}")], Instead::Copy(format!("{mlp}.{part}")));
    }
    for name in [format!("{mlp}.gate.fc1.weight"), "text_feature_moe.experts.fc2.bias".to_owned()] {
        assert_eq!(values(&parameters[&name]), values(&fresh[&name]));
        assert_eq!(report.missing[&name], Instead::Fresh);
    }
    assert!(report.unused.contains(&"visual.transformer.resblocks.0.mlp.c_fc.weight".to_owned()));
    let error = load(&file, Some(&mixtures), ExpertsFrom::Layer(11)).unwrap_err().to_string();
    assert!(error.contains("_model.encoder.layers.11.mlp.fc1.weight is not in the file"), "{error}");
    let (weights, report) = load(&file, Some(&mixtures), ExpertsFrom::Fresh).unwrap();
    let name = format!("{mlp}.experts.fc1.weight");
    assert_eq!(values(&export(&weights)[&name]), values(&fresh[&name]));
    assert_eq!(report.missing[&name], Instead::Fresh);
}

#[test]
fn experts_start_as_copies_of_the_mlp_of_the_block_that_is_named() {
    let file = open("checkpoint_huggingface/model.safetensors");
    let config = file.config().unwrap();
    let mixtures = Mixtures::preset(Preset::Authors, &config, 3);
    // Its text tower has one block.
    assert_eq!(config.vision.layers, 2);
    for (from, block) in [(ExpertsFrom::Layer(0), 0), (ExpertsFrom::Replaced, 1)] {
        let (weights, report) = load(&file, Some(&mixtures), from).unwrap();
        let parameters = export(&weights);
        for part in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
            let source = format!("vision_model.encoder.layers.{block}.mlp.{part}");
            let own = format!("vision_model.encoder.layers.1.mlp.experts.{part}");
            let (mlp, experts) = (values(&file.tensor(&source).unwrap()), values(&parameters[&own]));
            assert!(experts.len() == 10 * mlp.len() && experts.chunks(mlp.len()).all(|expert| expert == mlp), "{own}");
            assert_eq!(report.missing[&own], Instead::Copy(source));
        }
    }
}

/// A million experts would be made for nothing.
#[test]
fn a_model_without_the_mixtures_that_it_speaks_of_is_refused_before_any_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    SavedModel::load(&data("checkpoint_openai.pt")).unwrap().write(&path).unwrap();
    let (tensors, text) = read_tensors(&path).unwrap();
    let claims =
        text.replace("\"mixtures\":false", "\"mixtures\":true").replace("\"token_experts\":10", "\"token_experts\":1048576");
    assert_ne!(claims, text);
    write_tensors(&path, &tensors, claims).unwrap();
    let error = SavedModel::load(&path).map(drop).unwrap_err().to_string();
    assert!(error.contains("does not fit the model; missing: text_feature_moe."), "{error}");
}

#[test]
fn every_key_and_every_parameter_stands_in_the_report() {
    let file = open("checkpoint_openai.pt");
    let config = file.config().unwrap();
    let mixtures = Mixtures::preset(Preset::Authors, &config, 2);
    let (weights, report) = load(&file, Some(&mixtures), ExpertsFrom::Replaced).unwrap();
    let told: BTreeSet<&String> = report.matched.keys().chain(report.missing.keys()).chain(report.wrong_shape.keys()).collect();
    assert_eq!(told, export(&weights).keys().collect());
    let keys: BTreeSet<&String> = report.matched.values().flatten().chain(&report.unused).chain(&report.buffers).collect();
    // What torch.jit.load(...).state_dict() holds.
    assert_eq!(keys.len(), 40);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<LoadReport>(&text).unwrap(), report);
}

#[test]
fn a_model_of_other_sizes_is_refused_with_all_that_does_not_fit() {
    let file = open("checkpoint_openai.pt");
    let config = ClipConfig { context: 8, ..file.config().unwrap() };
    let error = Weights::from_checkpoint(&config, None, DType::F32, &file, ExpertsFrom::Fresh, 7).unwrap_err().to_string();
    let why = "of another shape: text_model.embeddings.position_embedding.weight must be [8, 64], but is [7, 64]";
    assert!(error.ends_with(why), "{error}");
}

#[test]
fn what_is_written_is_read_again_and_equal_tensors_give_equal_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, _) = load(&open("checkpoint_openai.pt"), None, ExpertsFrom::Fresh).unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    let mut tensors = export(&weights);
    tensors.insert("odd".into(), Tensor::new(&[1u8, 2, 3], &Device::Cpu).unwrap());
    write_tensors(&a, &tensors, "a \"text\"".into()).unwrap();
    write_tensors(&b, &tensors, "a \"text\"".into()).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    let (again, text) = read_tensors(&a).unwrap();
    assert_eq!(text, "a \"text\"");
    assert_eq!(again.len(), tensors.len());
    for (name, tensor) in &tensors {
        assert_eq!((again[name].dtype(), again[name].dims()), (tensor.dtype(), tensor.dims()), "{name}");
        assert_eq!(values(&again[name]), values(tensor), "{name}");
    }
}

#[test]
fn models_have_as_many_parameters_as_published() {
    for (config, plain, race) in
        [(ClipConfig::vit_b16(), 149_620_737, 223_966_939), (ClipConfig::vit_l14(), 427_616_513, 574_707_547)]
    {
        assert_eq!(Weights::count(&config, None).unwrap(), plain);
        for preset in [Preset::Paper, Preset::Authors] {
            let mut mixtures = Mixtures::preset(preset, &config, 3);
            assert_eq!(Weights::count(&config, Some(&mixtures)).unwrap(), race);
            mixtures.vision_token.capacity = Capacity::None;
            assert_eq!(Weights::count(&config, Some(&mixtures)).unwrap(), race);
        }
    }
}
