//! `scripts/record_case.py`: what it records of layers, losses and models in PyTorch is what this crate computes.
#![cfg(all(feature = "cli", feature = "model"))]

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A Python with PyTorch: the one that `FAIR_MOE_PYTHON` names, the checkout's own, or the first of the path.
fn python() -> Option<String> {
    let named = std::env::var("FAIR_MOE_PYTHON").ok();
    let candidates = named.into_iter().chain([".venv/bin/python", "python3", "python"].map(str::to_owned));
    let has_torch = |python: &String| {
        let found = Command::new(python).args(["-c", "import torch, numpy, safetensors.torch"]).output();
        found.is_ok_and(|out| out.status.success())
    };
    candidates.into_iter().find(has_torch)
}

#[test]
fn what_is_recorded_in_pytorch_is_what_a_replay_computes() {
    let Some(python) = python() else {
        // Not eprintln, which a test that passes keeps to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no Python with torch, numpy and safetensors; FAIR_MOE_PYTHON names one");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/record_published.py");
    let out = Command::new(python).arg(script).arg(env!("CARGO_BIN_EXE_fair-moe")).arg(folder.path()).output().unwrap();
    let [said, why] = [&out.stdout, &out.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(out.status.success(), "{said}{why}");
    why.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| drop(writeln!(std::io::stderr(), "{line}")));
}
