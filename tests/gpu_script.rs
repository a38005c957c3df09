//! What scripts/gpu.sh leaves, tried with programs that stand for those of a machine with a GPU.
#![cfg(unix)]

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Names cases as `fair-moe check` does; bf16 fails. Figures as `fair-moe bench` has them, of no shape.
const FAIR_MOE: &str = r#"
echo "check bf16: paper
check bf16: the case that fails" >&2
case "$*" in "check --device cuda --dtype bf16 --facts none") exit 1 ;; esac
while [ $# -gt 0 ]; do
    case $1 in
    --json) echo '{"results": []}' >"$2" ;;
    --plot) echo "<svg/>" >"$2" ;;
    esac
    shift
done"#;
/// A peer whose last line was cut off, beside what the script itself asks of Python.
const PYTHON: &str = r#"
[ "$1" = - ] && exec python3 "$@"
echo '{"peer": "dense"}'
echo '{"peer": "spar'"#;
const TOOL: &str = r#"echo "libraries: $LD_LIBRARY_PATH""#;

fn program(at: &Path, body: &str) {
    fs::write(at, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_check_that_fails_is_looked_into_at_once_and_told_beside_every_figure() {
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: python3 is not here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("bin")).unwrap();
    program(&at("fair-moe"), FAIR_MOE);
    program(&at("python"), PYTHON);
    for tool in ["bin/ncu", "bin/compute-sanitizer", "bin/nvidia-smi"] {
        program(&at(tool), TOOL);
    }
    let mut script = Command::new("sh");
    script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gpu.sh")).args([at("fair-moe"), at("out"), at("python")]);
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
    let output = script.env("PATH", path).env("LD_LIBRARY_PATH", "/a:/cuda/lib64/stubs:/b/stubs/:/c").output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let mut left: Vec<_> = fs::read_dir(at("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["log.txt", "rooflines.tar", "summary.json"]);
    let summary: Value = serde_json::from_slice(&fs::read(at("out/summary.json")).unwrap()).unwrap();
    let list = |of: &str, key: &str| -> Vec<Value> { summary[of].as_array().unwrap().iter().map(|v| v[key].clone()).collect() };
    let steps = list("steps", "step");
    let begin =
        ["machine", "info", "facts", "check bf16", "memcheck", "blocking check", "check f16", "check f32", "bench vit-b16-64"];
    assert_eq!(steps[..begin.len()], begin);
    assert_eq!(steps.last().unwrap(), "racecheck");
    assert_eq!(summary["checked"], json!({"bf16": false, "f16": true, "f32": true}));
    for bench in summary["bench"].as_array().unwrap() {
        assert_eq!(bench["checked"], bench["dtype"] == "f32", "{bench}");
    }
    assert_eq!(summary["bench"].as_array().unwrap().len(), steps.iter().filter(|s| s.to_string().contains("bench ")).count());
    assert!(list("peers", "peer").iter().all(|peer| peer == "dense") && !list("peers", "peer").is_empty());
    let log = fs::read_to_string(at("out/log.txt")).unwrap();
    assert!(log.contains("libraries: /a:/c\n") && !log.contains("stubs"), "{log}");
    assert!(log.contains("half as wide the case that fails\n"), "{log}");
}
