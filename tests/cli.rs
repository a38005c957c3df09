//! What the command line refuses: one plain sentence on standard error, an exit code from 1 to 100, and no file left behind.
#![cfg(all(feature = "cli", feature = "model"))]

#[path = "support/recording.rs"]
mod recording;

use fair_moe::case::{Case, replay};
use fair_moe::{DType, Device};
use proptest::prelude::*;
use recording::Recording;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn fair_moe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    command.args(arguments);
    command
}

/// Checks that it was refused as it should, and gives the sentence.
#[track_caller]
fn refusal(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1..=100)), "{:?} with {said:?}", output.status);
    assert!(!said.contains("panicked"), "{said:?}");
    assert_eq!(said.trim().lines().count(), 1, "{said:?}");
    said
}

/// Replays these bytes, which must be refused in one line that has all of `words`, leaving nothing.
#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (case, out) = (folder.path().join("case"), folder.path().join("out"));
    fs::write(&case, bytes).unwrap();
    let said = refusal(fair_moe(&["run", case.to_str().unwrap(), "--out", out.to_str().unwrap()]).output().unwrap());
    assert_eq!(said.trim().lines().count(), 1, "{said:?}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "something was left behind");
}

#[test]
fn broken_files() {
    let whole = Recording::load("token_small").bytes();
    refused(b"", &["8 bytes", "has 0 bytes"]);
    refused(&whole[..5], &["has 5 bytes"]);
    refused(&whole[..200], &["header claims"]);
    refused(&whole[..whole.len() - 1], &["not"]);
    refused(&[&(1u64 << 60).to_le_bytes(), &b"{}"[..]].concat(), &["1152921504606846976", "2 bytes follow"]);
    refused(&[&u64::MAX.to_le_bytes(), &b"{}"[..]].concat(), &["only 2 bytes follow"]);
    refused(&[&2u64.to_le_bytes(), &b"{}"[..]].concat(), &["kind", "missing"]);
    refused(&[&whole[..], &[0]].concat(), &["not"]);
    let header = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &[0; 16]].concat();
    let tensor = |shape: &str, offsets: &str| format!(r#"{{"dtype":"F64","shape":{shape},"data_offsets":{offsets}}}"#);
    refused(&header(&format!(r#"{{"x":{},"y":{}}}"#, tensor("[2]", "[0,16]"), tensor("[1]", "[8,16]"))), &["offset"]);
    refused(&header(&format!(r#"{{"x":{}}}"#, tensor("[4294967296,4294967296,4294967296]", "[0,16]"))), &["overflow"]);
    refused(&header(&format!(r#"{{"x":{}}}"#, tensor("[2]", "[0,9223372036854775807]"))), &["offset"]);
    refused(&header(&"[".repeat(10_000)), &["header"]);
}

#[test]
fn layers_that_cannot_be() {
    let case = || Recording::load("token_small");
    refused(&case().set("kind", "\"token_mow\"").bytes(), &["kind", "token_moe", "token_mow"]);
    refused(&case().set("kind", "token_moe").bytes(), &["kind", "JSON"]);
    refused(&case().unset("kind").bytes(), &["kind", "missing"]);
    refused(&case().set("top_k", "0").bytes(), &["top_k", "at least 1", "0"]);
    refused(&case().set("top_k", "6").bytes(), &["top-k", "5", "6"]);
    refused(&case().set("top_k", "1.5").bytes(), &["top_k", "whole number"]);
    refused(&case().set("capacity", "-1").bytes(), &["capacity", "at least 1", "-1"]);
    refused(&case().set("capacity", "0").bytes(), &["capacity"]);
    refused(&case().set("expert_activation", "\"swish\"").bytes(), &["expert_activation", "relu", "swish"]);
    refused(&case().set("gate_activation", "7").bytes(), &["gate_activation", "text"]);
    refused(&case().set("subtract_input", "1").bytes(), &["subtract_input", "true or false"]);
    refused(&case().unset("renormalise").bytes(), &["renormalise", "missing"]);
    for key in ["tokens", "samples", "width", "experts", "expert_width"] {
        refused(&case().set(key, "7").bytes(), &["must have shape", "7"]);
        refused(&case().set(key, "9223372036854775807").bytes(), &["9223372036854775807"]);
        refused(&case().unset(key).bytes(), &[key, "missing"]);
    }
    let huge = case().set("experts", "1000000000").set("expert_width", "4294967296").set("width", "4294967296");
    refused(&huge.bytes(), &["too large"]);
    for name in ["x", "gate.fc1.weight", "gate.fc2.bias", "experts.fc1.bias", "experts.fc2.weight"] {
        refused(&case().drop(name).bytes(), &[name, "missing"]);
    }
    refused(&case().reshape("x", &[3, 19, 32]).bytes(), &["x", "[19, 3, 32]", "[3, 19, 32]"]);
    refused(&case().reshape("y", &[57, 32]).bytes(), &["y", "[19, 3, 32]", "[57, 32]"]);
    refused(&case().reshape("gate.fc1.weight", &[8 * 32]).bytes(), &["gate.fc1.weight", "2 dimensions"]);
    refused(&case().put("x", &[19, 3, 32], &[0; 19 * 3 * 32]).bytes(), &["x", "f64, f32, f16 or bf16", "I64"]);
    refused(&case().put("z", &[1], &[0]).bytes(), &["z", "neither an input"]);
    refused(&case().set("expert_bias", "false").bytes(), &["experts.fc1.bias"]);
    refused(&case().drop("dy").drop("dweights").bytes(), &["d.", "neither"]);
    refused(&Recording::load("feature_small").set("samples", "5").bytes(), &["x", "[5, 32]", "[6, 32]"]);
}

#[test]
fn losses_and_figures_that_cannot_be() {
    let fol = || Recording::load("fol_strong");
    refused(&fol().drop("group1.logits").bytes(), &["group1.logits", "missing"]);
    refused(&fol().set("groups", "1").bytes(), &["group1", "neither"]);
    refused(&fol().set("samples", "7").bytes(), &["logits", "[7, 7]", "[8, 8]"]);
    refused(&fol().set("layers", "3").bytes(), &["weights2", "missing"]);
    refused(&fol().set("scaling", "1.0").bytes(), &["scaling"]);
    refused(&fol().set("blur", "-1").bytes(), &["blur"]);
    refused(&fol().set("p", "1").bytes(), &["p must be 2"]);
    refused(&fol().reshape("weights0", &[150]).bytes(), &["weights0", "2 dimensions"]);
    let moments = || Recording::load("group_moments");
    refused(&moments().poke("group", 5, 3).bytes(), &["group", "number 5 is 3"]);
    refused(&moments().poke("group", 5, -2).bytes(), &["group", "number 5 is -2"]);
    refused(&moments().set("columns", "11").bytes(), &["x", "[257, 11]"]);
    refused(&moments().drop("group").bytes(), &["group", "missing"]);
    let many = || moments().drop("dmean").drop("dvariance").set("groups", "100000000000000");
    refused(&many().bytes(), &["count", "[100000000000000]", "[3]"]);
    refused(&many().drop("count").drop("mean").drop("variance").bytes(), &["the groups' moments", "no room"]);
    let large = || Recording::load("preprocess_shared").set("size", "10000000");
    refused(&large().bytes(), &["pixels", "[3, 10000000, 10000000]"]);
    refused(&large().drop("pixels").bytes(), &["the pixels", "no room"]);
    let metrics = || Recording::load("metrics");
    refused(&metrics().poke("label", 3, 2).bytes(), &["label", "0 or 1", "number 3"]);
    refused(&metrics().poke("label", 3, -1).bytes(), &["label", "0 or 1"]);
    refused(&metrics().poke("attributes", 3, -7).bytes(), &["attributes", "-7"]);
    refused(&metrics().set("attributes", "4").bytes(), &["attributes", "list"]);
    refused(&metrics().drop("probability").bytes(), &["probability", "missing"]);
}

#[test]
fn models_that_cannot_be() {
    let step = || Recording::load("step_one_expert");
    let config = |from: &str, to: &str| {
        let settings = step().settings["config"].replacen(from, to, 1);
        step().set("config", &settings).bytes()
    };
    refused(&step().unset("config").bytes(), &["config", "missing", "an object"]);
    refused(&config("\"patch\": 5", "\"patch\": 0"), &["config.patch", "at least 1", "0"]);
    refused(&config("\"patch\": 5", "\"patch\": 3"), &["multiple", "10"]);
    refused(&config("\"groups\": 2", "\"group\": 2"), &["config.groups", "missing"]);
    refused(&config("\"groups\": 2", "\"groups\": 3"), &["text_feature_moe", "[3, "]);
    refused(&config("\"experts\": 1", "\"experts\": 100000000000000"), &["experts"]);
    refused(&config("\"vocab\": 30", "\"vocab\": 29"), &["token_embedding", "[29, 9]"]);
    refused(
        &config("\"text_layers\": 2", "\"text_layers\": 1"),
        &["text_model.encoder.layers.0.mlp.experts.fc1.weight", "missing"],
    );
    refused(&step().set("preset", "\"none\"").bytes(), &["preset", "paper or authors"]);
    refused(&step().set("top_k", "2").bytes(), &["top-k", "2"]);
    refused(&step().set("samples", "5").bytes(), &["image", "[5, 3, 10, 10]"]);
    refused(&step().unset("capacity_text").bytes(), &["capacity_text", "or null"]);
    refused(&step().poke("ids", 3, 30).bytes(), &["ids", "0 to 29", "number 3 is 30"]);
    refused(&step().poke("ids", 3, -1).bytes(), &["ids", "number 3 is -1"]);
    refused(&step().drop("group1.image").bytes(), &["group1.image", "missing"]);
    refused(&step().drop("text_feature_moe.gate.fc2.bias").bytes(), &["text_feature_moe.gate.fc2.bias", "missing"]);
    let other = step().put_floats("vision_model.encoder.layers.7.mlp.fc1.bias", &[2], &[0.0; 2]);
    refused(&other.bytes(), &["layers.7", "none of the parameters"]);
    refused(&step().put_floats("loss.other", &[1], &[0.0]).bytes(), &["loss.other", "neither"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/token_silu_nocap.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for out in [&file.join("out"), &folder.path().join("none/out"), folder.path()] {
        let said = refusal(fair_moe(&["run", case, "--out", out.to_str().unwrap()]).output().unwrap());
        assert!(said.contains(out.to_str().unwrap()), "{said:?}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    if Path::new("/dev/full").exists() {
        refusal(fair_moe(&["run", case, "--out", "/dev/full"]).output().unwrap());
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let said = refusal(fair_moe(&["info"]).stdout(Stdio::from(full)).stderr(Stdio::piped()).output().unwrap());
        assert!(said.contains("standard output"), "{said:?}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = fair_moe(&["info"]).stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
    assert!(output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0..=100)));
}

#[test]
fn every_stage_agrees_with_the_reference_here() {
    let output = fair_moe(&["check"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !said.contains("MISS"), "{said}");
    for stage in ["gate", "route", "experts", "layer", "moments", "contrast", "transport"] {
        assert!(said.contains(stage), "{stage} is not in {said}");
    }
}

/// So that whoever waits, or finds what a killed check left, knows where it is.
#[test]
fn a_check_names_each_case_before_it_runs() {
    let output = fair_moe(&["check", "--device", "cpu", "--dtype", "f64", "--case", "one token", "few"]).output().unwrap();
    let (said, named) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && !said.contains("MISS"), "{said}");
    assert_eq!(named.lines().collect::<Vec<_>>(), ["check f64: one token", "check f64: few"]);
    let said = refusal(fair_moe(&["check", "--device", "cpu", "--case", "no such"]).output().unwrap());
    assert_eq!(said, "--case must be in the name of a case, but is [\"no such\"]\n");
}

#[cfg(feature = "emulate")]
#[test]
fn a_check_names_each_fact_or_leaves_them_out() {
    let facts = "facts of the hardware: ";
    let alone = fair_moe(&["check", "--device", "emulated:1@sm_80", "--facts"]).output().unwrap();
    let (said, named) = (String::from_utf8(alone.stdout).unwrap(), String::from_utf8(alone.stderr).unwrap());
    assert!(alone.status.success() && said.contains(facts) && said.contains("mma.sync adds up in f32: "), "{said}");
    assert!(named.lines().count() == 13 && named.lines().all(|line| line.starts_with("fact ")), "{named}");
    let case = ["--dtype", "bf16", "--case", "one token"];
    let none = fair_moe(&["check", "--device", "emulated:1", "--facts", "none"]).args(case).output().unwrap();
    let (said, named) = (String::from_utf8(none.stdout).unwrap(), String::from_utf8(none.stderr).unwrap());
    assert!(none.status.success() && !said.contains(facts) && said.contains("all within their bounds"), "{said}");
    assert_eq!(named, "check bf16: one token\n");
}

#[test]
fn info_names_the_version() {
    let output = fair_moe(&["info"]).output().unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments() {
    for arguments in [
        &["sing"][..],
        &["run"],
        &["run", "case", "--dtype", "f8", "--out", "o"],
        &["run", "c", "--device", "cuda", "--out", "o"],
    ] {
        refusal(fair_moe(arguments).output().unwrap());
    }
    let said = refusal(fair_moe(&["run", "no-such-file", "--out", "o"]).output().unwrap());
    assert!(said.starts_with("no-such-file: "), "{said:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a file holds, reading and replaying it gives results or an error, never a panic.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = replay_bytes(&bytes);
    }

    /// The same for cases with a few bytes of their header overwritten.
    #[test]
    fn damaged_headers(name in prop::sample::select(vec!["token_silu_nocap", "fol_strong", "metrics"]),
                       damage in prop::collection::vec((0usize..3000, any::<u8>()), 1..4)) {
        let mut bytes = Recording::load(name).bytes();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        let _ = replay_bytes(&bytes);
    }
}

fn replay_bytes(bytes: &[u8]) -> fair_moe::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case");
    fs::write(&path, bytes).unwrap();
    replay(Case::read(&path)?, DType::F32, &Device::cpu()).map(drop)
}
