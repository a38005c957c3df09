//! Training from the command line: what it writes, that it goes on after a kill, and what it refuses.
#![cfg(all(feature = "cli", feature = "model"))]

use fair_moe::data::{DataSet, MakeConfig, Split, make};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const MODELS: [&str; 2] = ["clip", "paper"];
const FILES: [&str; 7] = [
    "checkpoint.safetensors",
    "model.safetensors",
    "settings.json",
    "start.json",
    "log.jsonl",
    "metrics.json",
    "predictions.csv",
];

/// A checkpoint after every step.
const EVERY_STEP: [&str; 2] = ["--set", "training.checkpoint_steps=1"];

/// A folder with a small data set in `data`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path().join("data"), &MakeConfig { samples: 60, bias: 1.0, seed: 3 }).unwrap();
    folder
}

/// Two epochs, unless `more` says otherwise.
fn train(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    command.current_dir(folder).args(["train", "--data", "data", "--out", out]).args(more);
    for (option, value) in [("--epochs", "2"), ("--batch", "16")] {
        if !more.contains(&option) {
            command.args([option, value]);
        }
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one sentence of a refusal.
#[track_caller]
fn refused(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(sentence.trim_end().lines().count(), 1, "{sentence}");
    sentence
}

fn results(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = MODELS.iter().flat_map(|model| FILES.iter().map(move |file| out.join(model).join(file)));
    files.map(|file| (file.strip_prefix(out).unwrap().to_owned(), std::fs::read(&file).unwrap())).collect()
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    for ((file, a), (_, b)) in results(a).into_iter().zip(results(b)) {
        assert!(a == b, "{} differs", file.display());
    }
}

/// Waits until a file is there.
fn wait_for(file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < Duration::from_secs(300), "{} never came", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_bytes() {
    let folder = folder();
    let path = folder.path();
    let table = succeeded(train(path, "whole", &EVERY_STEP).output().unwrap());
    for row in ["AUC", "race ES-AUC", "DPD", "EOD", "Black", "paper", "training.epochs"] {
        assert!(table.contains(row), "no {row} in\n{table}");
    }
    // Before the first step; in the first epoch; in a later one.
    for (i, until) in ["config.json", "clip/checkpoint.safetensors", "paper/log.jsonl"].iter().enumerate() {
        let out = format!("killed{i}");
        let mut run = train(path, &out, &EVERY_STEP).spawn().unwrap();
        wait_for(&path.join(&out).join(until));
        run.kill().unwrap();
        run.wait().unwrap();
        succeeded(train(path, &out, &[&EVERY_STEP[..], &["--resume"]].concat()).output().unwrap());
        assert_same(&path.join("whole"), &path.join(&out));
    }
    // A finished run has nothing left to do.
    let before = results(&path.join("whole"));
    let again = [&EVERY_STEP[..], &["--resume"]].concat();
    succeeded(train(path, "whole", &again).output().unwrap());
    assert!(results(&path.join("whole")) == before);

    refused(train(path, "whole", &[]).output().unwrap());
    let sentence = refused(train(path, "whole", &[&again[..], &["--rate", "0.5"]].concat()).output().unwrap());
    assert!(sentence.contains("rate was 0.001, and is 0.5 now"), "{sentence}");

    // A saved model is measured as it was in training.
    for model in MODELS {
        let checkpoint = format!("whole/{model}/model.safetensors");
        let mut eval = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
        eval.current_dir(path).args(["eval", "--checkpoint", &checkpoint, "--data", "data", "--out", model]);
        assert!(succeeded(eval.output().unwrap()).contains("ES-AUC"));
        for file in ["metrics.json", "predictions.csv"] {
            let trained = std::fs::read(path.join("whole").join(model).join(file)).unwrap();
            assert!(trained == std::fs::read(path.join(model).join(file)).unwrap(), "{model}/{file} differs");
        }
    }
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(std::fs::read_to_string(path).unwrap().trim_end()).unwrap()
}

#[test]
fn what_is_written_has_the_promised_shape() {
    let folder = folder();
    let out = folder.path().join("out");
    let more = ["--epochs", "1", "--text", "note", "--preset", "clip", "--preset", "authors", "--preset", "fairclip-paper"];
    let more = [&more[..], &["--attribute", "gender", "--attribute", "race=0.5", "--set", "loss.gate_ce_weight=0.1"]].concat();
    let more = [&more[..], &["--lambda-dispersion", "2e-4"]].concat();
    succeeded(train(folder.path(), "out", &more).output().unwrap());
    for model in ["clip", "authors", "fairclip-paper"] {
        let out = out.join(model);
        let predictions = std::fs::read_to_string(out.join("predictions.csv")).unwrap();
        assert_eq!(predictions.lines().next(), Some("file,label,probability,race,gender,ethnicity,language"));
        let metrics = json(&out.join("metrics.json"));
        assert!(metrics["auc"].is_f64() && metrics["accuracy"].is_number(), "{metrics}");
        for attribute in ["race", "gender", "ethnicity", "language"] {
            for figure in ["es_auc", "es_acc", "dpd", "eod", "group_auc"] {
                assert!(metrics["attributes"][attribute].get(figure).is_some(), "{attribute} has no {figure}");
            }
        }
        let epoch = json(&out.join("log.jsonl"));
        assert_eq!(epoch["epoch"], 1);
        assert_eq!(epoch["distance"].as_f64() == Some(0.0), model == "clip");
        assert_eq!(epoch["gate_ce"].as_f64() == Some(0.0), model != "authors");
        assert_eq!(epoch["batch_variance"].as_f64().unwrap() < 0.0, model == "authors");
        // A group's distance is told even where nothing makes it smaller.
        assert!(epoch["groups"]["race"]["White"]["distance"].as_f64().unwrap() > 0.0);
        assert!(epoch["warnings"].as_object().unwrap().is_empty(), "{epoch}");
        assert!(epoch["validation_es_auc"].as_object().unwrap().keys().eq(["gender", "race"]));
        let settings = json(&out.join("settings.json"));
        assert_eq!((&settings["preset"], &settings["attributes"][1]["weight"]), (&model.into(), &0.5.into()));
        // The published code has one weight for both dispersions; the others have one of them, or none.
        let weights = ["lambda_dispersion", "lambda_batch_variance"].map(|name| settings["loss"][name].as_f64().unwrap());
        let want = if model == "authors" {
            [2e-4; 2]
        } else if model == "clip" {
            [0.0; 2]
        } else {
            [2e-4, 0.0]
        };
        assert_eq!(weights, want);
        let start = json(&out.join("start.json"));
        let terms = start["terms"].as_object().unwrap();
        let shares: f64 = terms.values().map(|term| term["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9 && terms["clip"]["gradient_norm"].as_f64().unwrap() > 0.0, "{start}");
        assert_eq!(terms.contains_key("dispersion"), model == "authors");
        let warned = start["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains("test split"));
        assert_eq!(warned, model == "authors");
        assert!(json(&out.join("cost.json"))["seconds"].as_f64().unwrap() > 0.0);
    }
    // Left as it began, for the published code does not train it.
    let norms = &json(&out.join("authors/start.json"))["gradient_norms"];
    assert!(norms.get("vision_feature_moe").is_none() && norms["text_feature_moe"].as_f64().unwrap() > 0.0);
}

#[test]
fn training_starts_from_a_files_weights() {
    let folder = folder();
    let path = folder.path();
    succeeded(train(path, "first", &["--epochs", "1", "--preset", "clip"]).output().unwrap());
    let weights = ["--epochs", "1", "--weights", "first/clip/model.safetensors", "--rate", "1e-30"];
    succeeded(train(path, "second", &weights).output().unwrap());
    // At such a rate nothing moves.
    let [first, second] = ["first", "second"].map(|out| std::fs::read(path.join(out).join("clip/predictions.csv")).unwrap());
    assert!(first == second);
    let report = json(&path.join("second/paper/weights.json"));
    assert_eq!(report["matched"]["logit_scale"], serde_json::json!(["logit_scale"]));
    let experts = &report["missing"]["vision_model.encoder.layers.1.mlp.experts.fc1.weight"];
    assert!(experts["copy"].as_str().is_some_and(|from| from.ends_with("layers.1.mlp.fc1.weight")), "{report}");
    let warnings = json(&path.join("second/paper/start.json"))["warnings"].to_string();
    assert!(warnings.contains("zero-shot answers are chance"), "{warnings}");
    // The file is that of a model of another size.
    let other = ["--arch", "vit-b16", "--preset", "clip", "--weights", "first/clip/model.safetensors"];
    assert!(refused(train(path, "third", &other).output().unwrap()).contains("model.safetensors"));
}

#[test]
fn the_kept_model_is_that_of_the_epoch_with_the_highest_figure_on_the_split_that_chooses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for data in ["data", "swapped"] {
        make(path.join(data), &MakeConfig { samples: 240, bias: 1.0, seed: 3 }).unwrap();
    }
    // What is measured on this one's test split is what chose on the other's validation split.
    for (from, to) in [("Test", "kept"), ("Validation", "Test"), ("kept", "Validation")] {
        std::fs::rename(path.join("swapped").join(from), path.join("swapped").join(to)).unwrap();
    }
    let mut best_is_last = vec![];
    for (split, data) in [("val", "swapped"), ("test", "data")] {
        for (by, of) in [("auc", "/auc"), ("es-auc", "/attributes/gender/es_auc")] {
            let out = format!("{split}-{by}");
            let settings = [format!("training.select_split={split}"), format!("training.select_by={by}")];
            let more = ["--epochs", "4", "--preset", "clip", "--attribute", "gender", "--rate", "0.003"];
            let more = [&more[..], &["--set", &settings[0], "--set", &settings[1]]].concat();
            succeeded(train(path, &out, &more).output().unwrap());
            let log = std::fs::read_to_string(path.join(&out).join("clip/log.jsonl")).unwrap();
            let figure = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["selection"].as_f64().unwrap();
            let figures: Vec<f64> = log.lines().map(figure).collect();
            let best = figures.iter().copied().fold(0.0, f64::max);
            assert!(figures.iter().any(|figure| *figure < best), "{figures:?} do not choose");
            best_is_last.push(figures[3] == best);
            let mut eval = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
            let checkpoint = format!("{out}/clip/model.safetensors");
            let measured = format!("{out}-measured");
            eval.current_dir(path).args(["eval", "--checkpoint", &checkpoint, "--data", data, "--out", &measured]);
            succeeded(eval.output().unwrap());
            let measured = json(&path.join(measured).join("metrics.json"));
            let found = measured.pointer(of).unwrap().as_f64().unwrap();
            assert!((found - best).abs() < 1e-12, "{split} {by}: {found} is not the best of {figures:?}");
        }
    }
    assert!(best_is_last.contains(&false), "the last epoch was the best of all");
}

/// Puts another note in the place of the first sample's.
fn rewrite_note(folder: &Path, note: &str) {
    let table = folder.join("data/gpt-4_summarized_notes.csv");
    let text = std::fs::read_to_string(&table).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let row = format!("data_00001.npz,,{note}");
    lines[1] = &row;
    std::fs::write(&table, lines.join("\n")).unwrap();
}

#[test]
fn changed_notes_are_told_on_resume_and_with_weights() {
    let folder = folder();
    let path = folder.path();
    let more = ["--epochs", "1", "--preset", "clip"];
    succeeded(train(path, "first", &more).output().unwrap());
    rewrite_note(path, "Paciente de 52 años.");
    let sentence = refused(train(path, "first", &[&more[..], &["--resume"]].concat()).output().unwrap());
    assert!(sentence.contains("checkpoint.safetensors") && sentence.contains("no longer those"), "{sentence}");
    rewrite_note(path, "a word never seen: cataract");
    let weights = [&more[..], &["--weights", "first/clip/model.safetensors"]].concat();
    let sentence = refused(train(path, "second", &weights).output().unwrap());
    assert!(sentence.contains("model.safetensors") && sentence.contains("other tokens"), "{sentence}");
    assert!(!path.join("second").exists());
}

#[test]
fn notes_that_are_too_long_are_refused_as_published_or_cut_with_a_warning() {
    let folder = folder();
    let path = folder.path();
    // Each digit is a token.
    rewrite_note(path, &"1 ".repeat(85));
    for preset in ["authors", "fairclip"] {
        let sentence = refused(train(path, preset, &["--epochs", "1", "--preset", preset]).output().unwrap());
        assert!(sentence.contains("1 training notes have more than 77 tokens"), "{sentence}");
        assert!(!path.join(preset).exists());
    }
    let cut = ["--epochs", "1", "--preset", "fairclip", "--set", "data.long_notes=cut"];
    succeeded(train(path, "cut", &cut).output().unwrap());
    let warnings = json(&path.join("cut/fairclip/start.json"))["warnings"].to_string();
    assert!(warnings.contains("1 training notes have more than 77 tokens and lose their end"), "{warnings}");
}

#[test]
fn a_model_that_computes_in_bf16_learns_much_as_in_f32() {
    let folder = folder();
    let epochs = ["f32", "bf16"].map(|precision| {
        let setting = format!("training.precision={precision}");
        succeeded(train(folder.path(), precision, &["--epochs", "3", "--preset", "paper", "--set", &setting]).output().unwrap());
        let log = std::fs::read_to_string(folder.path().join(precision).join("paper/log.jsonl")).unwrap();
        let terms = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["clip"].as_f64().unwrap();
        log.lines().map(terms).collect::<Vec<_>>()
    });
    assert_ne!(epochs[0], epochs[1]);
    assert!(epochs.iter().all(|losses| losses[2] < losses[0]), "{epochs:?}");
    for (wide, narrow) in epochs[0].iter().zip(&epochs[1]) {
        assert!((wide - narrow).abs() < 0.05 * wide, "{epochs:?}");
    }
}

#[test]
fn several_seeds_have_a_folder_each_and_a_summary() {
    let folder = folder();
    let out = folder.path().join("out");
    let more = ["--epochs", "1", "--preset", "paper", "--seeds", "2", "--seed", "7", "--set", "loss.lambda_dispersion=3"];
    let more = [&more[..], &["--batch", "2"]].concat();
    let table = succeeded(train(folder.path(), "out", &more).output().unwrap());
    assert!(table.contains("mean ± sd of 2 seeds"), "{table}");
    let aucs = [7, 8].map(|seed| json(&out.join(format!("paper/seed-{seed}/metrics.json")))["auc"].as_f64().unwrap());
    let summary = json(&out.join("summary.json"));
    assert_eq!(summary["seeds"], serde_json::json!([7, 8]));
    let auc = &summary["models"]["paper"]["AUC"];
    assert!((auc["mean"].as_f64().unwrap() - (aucs[0] + aucs[1]) / 2.0).abs() < 1e-12);
    assert!((auc["sd"].as_f64().unwrap() - (aucs[0] - aucs[1]).abs() / 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(json(&out.join("paper/seed-8/settings.json"))["training"]["seed"], 8);
    assert_eq!(json(&out.join("paper/seed-8/settings.json"))["loss"]["lambda_dispersion"], 3.0);
    // Two samples lack one of three groups in each step.
    let warnings = &json(&out.join("paper/seed-8/log.jsonl"))["warnings"];
    let steps: u64 =
        (0..3).map(|i| warnings[format!("race: group {i} has no samples and is left out")].as_u64().unwrap_or(0)).sum();
    assert!((21..=42).contains(&steps), "{warnings}");
    assert!(json(&out.join("paper/seed-8/start.json"))["warnings"].to_string().contains("has no samples"));
}

/// The emulation computes a layer, not a model.
#[test]
fn devices_that_no_model_trains_on_are_refused() {
    let no_gpu = if cfg!(feature = "candle-cuda") { "cuda:99" } else { "candle-cuda" };
    for (device, word) in [("cuda:99", no_gpu), ("emulated:1@sm_80", "cpu or cuda[:N]"), ("tpu", "tpu")] {
        for arguments in [["train", "--data", "d"], ["eval", "--data", "d"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
            let more: &[&str] = if arguments[0] == "eval" { &["--checkpoint", "c", "--out", "o"] } else { &[] };
            let output = command.args(arguments).args(more).args(["--device", device]).output().unwrap();
            let sentence = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{sentence}");
            assert!(sentence.trim_end().lines().count() == 1 && sentence.contains(word), "{sentence}");
        }
    }
}

#[test]
fn a_group_without_training_samples_is_refused_when_its_attribute_is_asked_for() {
    let folder = folder();
    let data = folder.path().join("data");
    for sample in DataSet::open(&data).unwrap().samples(Split::Training).iter().filter(|sample| sample.groups[3] == 1) {
        std::fs::remove_file(data.join("Training").join(&sample.file)).unwrap();
    }
    for preset in ["authors", "paper"] {
        let more = ["--preset", preset, "--attribute", "language", "--epochs", "1"];
        let sentence = refused(train(folder.path(), preset, &more).output().unwrap());
        assert!(sentence.contains("no training sample has the language Spanish"), "{sentence}");
        assert!(!folder.path().join(preset).exists());
    }
    // A plain CLIP asks for no group.
    succeeded(train(folder.path(), "clip", &["--preset", "clip", "--attribute", "language", "--epochs", "1"]).output().unwrap());
}

#[test]
fn bad_input_gives_one_sentence_and_no_output() {
    let folder = folder();
    let path = folder.path();
    let mut bare = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    bare.current_dir(path).args(["train", "--data", "nowhere", "--out", "a"]);
    assert!(refused(bare.output().unwrap()).contains("nowhere"));
    assert!(!path.join("a").exists());
    refused(train(path, "data/data_summary.csv/b", &[]).output().unwrap());
    for (option, value) in [
        ("--attribute", "shoe size"),
        ("--batch", "0"),
        ("--rate", "NaN"),
        ("--lambda-distance", "inf"),
        ("--weights", "absent.pt"),
        ("--set", "model.feature_top_k=9"),
        ("--set", "arch=vit-b16"),
    ] {
        refused(train(path, "c", &[option, value]).output().unwrap());
        assert!(!path.join("c").exists(), "{option} {value} left something behind");
    }
    std::fs::remove_file(path.join("data/gpt-4_summarized_notes.csv")).unwrap();
    let sentence = refused(train(path, "d", &[]).output().unwrap());
    assert!(sentence.contains("gpt-4_summarized_notes.csv"), "{sentence}");
    assert!(!path.join("d").exists());

    std::fs::write(path.join("junk"), b"\xff\xff\xff\xff\xff\xff\xff\x0fjunk").unwrap();
    for checkpoint in ["junk", "absent", "data"] {
        let mut eval = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
        eval.current_dir(path).args(["eval", "--checkpoint", checkpoint, "--data", "data", "--out", "e"]);
        assert!(refused(eval.output().unwrap()).contains(checkpoint));
        assert!(!path.join("e").exists());
    }
}
