//! Training from the command line: what it writes, that it goes on after a kill, and what it refuses.
#![cfg(all(feature = "cli", feature = "model"))]

use fair_moe::data::{MakeConfig, make};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const MODELS: [&str; 2] = ["clip", "fair-moe"];
const FILES: [&str; 5] = ["checkpoint.safetensors", "model.safetensors", "log.jsonl", "metrics.json", "predictions.csv"];

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
    let table = succeeded(train(path, "whole", &[]).output().unwrap());
    for row in ["AUC", "ES-AUC", "DPD", "EOD", "Black", "Fair-MoE", "epochs"] {
        assert!(table.contains(row), "no {row} in\n{table}");
    }
    // In the first epoch; in a later one of either model.
    for (i, until) in ["config.json", "clip/checkpoint.safetensors", "fair-moe/checkpoint.safetensors"].iter().enumerate() {
        let out = format!("killed{i}");
        let mut run = train(path, &out, &[]).spawn().unwrap();
        wait_for(&path.join(&out).join(until));
        run.kill().unwrap();
        run.wait().unwrap();
        succeeded(train(path, &out, &["--resume"]).output().unwrap());
        assert_same(&path.join("whole"), &path.join(&out));
    }
    // A finished run has nothing left to do.
    let before = results(&path.join("whole"));
    succeeded(train(path, "whole", &["--resume"]).output().unwrap());
    assert!(results(&path.join("whole")) == before);

    refused(train(path, "whole", &[]).output().unwrap());
    let sentence = refused(train(path, "whole", &["--resume", "--rate", "0.5"]).output().unwrap());
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

#[test]
fn what_is_written_has_the_promised_shape() {
    let folder = folder();
    let out = folder.path().join("out");
    succeeded(train(folder.path(), "out", &["--epochs", "1", "--preset", "authors", "--text", "note"]).output().unwrap());
    for model in MODELS {
        let predictions = std::fs::read_to_string(out.join(model).join("predictions.csv")).unwrap();
        assert_eq!(predictions.lines().next(), Some("file,label,probability,race,gender,ethnicity,language"));
        let metrics = std::fs::read_to_string(out.join(model).join("metrics.json")).unwrap();
        let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
        assert!(metrics["auc"].is_f64() && metrics["accuracy"].is_number(), "{metrics}");
        for attribute in ["race", "gender", "ethnicity", "language"] {
            for figure in ["es_auc", "es_acc", "dpd", "eod", "group_auc"] {
                assert!(metrics["attributes"][attribute].get(figure).is_some(), "{attribute} has no {figure}");
            }
        }
        let log = std::fs::read_to_string(out.join(model).join("log.jsonl")).unwrap();
        let epoch: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
        assert_eq!(epoch["epoch"], 1);
        assert_eq!(epoch["distance"].as_f64() == Some(0.0), model == "clip");
    }
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
    for (option, value) in [("--attribute", "shoe size"), ("--batch", "0"), ("--rate", "NaN"), ("--lambda-distance", "inf")] {
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
