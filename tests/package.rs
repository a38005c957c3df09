//! The package: what it pulls in, and that nothing asks for a newer Rust than it states.

use serde_json::Value;
use std::process::Command;

fn cargo(arguments: &[&str]) -> String {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO")).args(arguments).args(["--locked", "--manifest-path", manifest]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn version(text: &str) -> Vec<u64> {
    let mut parts: Vec<u64> = text.split('.').map(|p| p.parse().unwrap()).collect();
    parts.resize(3, 0);
    parts
}

#[test]
fn nothing_asks_for_a_newer_rust_than_the_package_states() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--all-features"])).unwrap();
    let stated = version(env!("CARGO_PKG_RUST_VERSION"));
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "the whole graph");
    for package in packages {
        let Some(needs) = package["rust_version"].as_str() else { continue };
        assert!(version(needs) <= stated, "{} {} needs Rust {needs}", package["name"], package["version"]);
    }
}

#[test]
fn the_default_is_lean() {
    let tree = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let mut names: Vec<&str> = tree.lines().filter_map(|l| l.split(' ').next()).collect();
    names.sort();
    names.dedup();
    for heavy in ["candle-core", "candle-nn", "clap", "indicatif", "csv", "zip", "safetensors", "serde_json"] {
        assert!(!names.contains(&heavy), "{heavy} is in the default build");
    }
    assert!(names.len() < 40, "{} packages: {names:?}", names.len());
}
