//! Compiles the kernels as C++ for the CPU: one object a `.cu`, made anew only when something that it can include has changed.

use super::sources::File;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

pub fn compile(kernels: &Path, out: &Path, files: &[File], layout: &str) {
    let host = kernels.join("host");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut host_files: Vec<PathBuf> = std::fs::read_dir(&host).into_iter().flatten().flatten().map(|e| e.path()).collect();
    host_files.sort();
    let sanitize = std::env::var("FAIR_MOE_SANITIZE").unwrap_or_default();
    println!("cargo::rerun-if-env-changed=FAIR_MOE_SANITIZE");

    let mut common = DefaultHasher::new();
    sanitize.hash(&mut common);
    host_files.iter().for_each(|path| read(path).hash(&mut common));
    for header in files.iter().filter(|f| f.name.ends_with(".cuh") && !f.name.starts_with("experts/")) {
        header.text.hash(&mut common);
    }
    let mut units = vec![];
    for unit in files.iter().filter(|f| f.name.ends_with(".cu")) {
        let mut hash = common.clone();
        unit.text.hash(&mut hash);
        if unit.name.starts_with("experts/") {
            files.iter().filter(|f| f.name.starts_with("experts/")).for_each(|f| f.text.hash(&mut hash));
        }
        let stem = unit.name.replace(['/', '.'], "_");
        units.push((stem.clone(), format!("#include {:?}\n", unit.name), hash.finish()));
    }
    let includes: String =
        files.iter().filter(|f| f.name.starts_with("args/")).map(|f| format!("#include {:?}\n", f.name)).collect();
    let entry = format!("#include \"lib/ptx.cuh\"\n{includes}#include \"host/entry.hpp\"\n{layout}");
    let mut hash = common.clone();
    entry.hash(&mut hash);
    units.push(("entry".into(), entry, hash.finish()));

    let base = || {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(if sanitize.is_empty() { 2 } else { 1 }).include(kernels).warnings(false);
        // Else the inline variables of two libraries in one process would be the same.
        build.flag_if_supported("-fno-gnu-unique");
        build.flag("-Wno-unknown-pragmas").flag("-Wno-psabi").flag_if_supported("-ftrivial-auto-var-init=pattern");
        if !sanitize.is_empty() {
            build.flag(format!("-fsanitize={sanitize}")).flag("-g");
        }
        build
    };
    let stale = |(stem, _, hash): &&(String, String, u64)| !out.join(format!("{stem}-{hash:016x}.o")).exists();
    let mut build = base();
    let mut made = vec![];
    for (stem, text, hash) in units.iter().filter(stale) {
        let source = out.join(format!("{stem}.cpp"));
        super::write(&source, text);
        build.file(&source);
        made.push(out.join(format!("{stem}-{hash:016x}.o")));
    }
    if !made.is_empty() {
        for (from, to) in build.compile_intermediates().iter().zip(&made) {
            std::fs::rename(from, to).unwrap_or_else(|why| panic!("{}: {why}", to.display()));
        }
    }
    let mut archive = base();
    units.iter().for_each(|(stem, _, hash)| {
        archive.object(out.join(format!("{stem}-{hash:016x}.o")));
    });
    // Kernels register themselves: nothing refers to their objects by name.
    // Where the objects are, for who links them anew with one of them changed.
    println!("cargo::rustc-env=FAIR_MOE_OBJECTS={}", out.display());
    archive.link_lib_modifier("+whole-archive").compile("fair_moe_kernels");
    for runtime in sanitize.split(',').filter(|s| !s.is_empty()) {
        // rustc links with -nodefaultlibs, which leaves out the runtime that -fsanitize would add.
        let library = match runtime {
            "address" => "asan",
            "thread" => "tsan",
            _ => "ubsan",
        };
        println!("cargo::rustc-link-lib=dylib={library}");
    }
}
