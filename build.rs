//! Reads the kernels' sources and writes what Rust shares with them: argument structs, the table of kernels, and the sources
//! themselves, which are compiled at run time. With the feature `emulate` it also compiles them as C++ for the CPU.

#[path = "build/args.rs"]
mod args;
#[cfg(feature = "emulate")]
#[path = "build/emulate.rs"]
mod emulate;
#[path = "build/sources.rs"]
mod sources;

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    name_commit();
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap_or_default());
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    let files = sources::find(&root.join("kernels"));
    let structs = args::parse(&files);
    write(&out.join("args.rs"), &args::to_rust(&structs));
    write(&out.join("kernels.rs"), &sources::to_rust(&files));
    #[cfg(feature = "emulate")]
    emulate::compile(&root.join("kernels"), &out, &files, &args::to_cpp(&structs));
}

/// Records which commit a binary was built from, so that a measurement can name it.
fn name_commit() {
    let git = |what: &[&str]| {
        let output = std::process::Command::new("git").args(what).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Only of a repository of our own: in a package that another one holds, its commit says nothing.
    let own = Path::new(".git").exists();
    let commit = own.then(|| git(&["rev-parse", "--short=12", "HEAD"])).flatten().unwrap_or_default();
    println!("cargo::rustc-env=FAIR_MOE_COMMIT={commit}");
    // A path that does not exist would build everything anew each time.
    let log = own.then(|| git(&["rev-parse", "--git-path", "logs/HEAD"])).flatten();
    if let Some(log) = log.filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
}
