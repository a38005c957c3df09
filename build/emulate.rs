//! Compiles the kernels as C++ for the CPU: one object a `.cu`, made anew only when something that it can include has changed.

use super::sources::File;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;

/// Where the compiler knows them.
const FLAGS: &[&str] = &[
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    // A fault in a kernel then names its line.
    "-g1",
    // A register that a kernel reads before it writes it then holds nothing likely.
    "-ftrivial-auto-var-init=pattern",
    // Else the inline variables of two libraries in one process would be the same.
    "-fno-gnu-unique",
];

pub fn compile(kernels: &Path, out: &Path, files: &[File], layout: &str) {
    let sanitize = std::env::var("FAIR_MOE_SANITIZE").unwrap_or_default();
    println!("cargo::rerun-if-env-changed=FAIR_MOE_SANITIZE");
    let args = files.iter().filter(|f| super::args::is_args(f)).map(|f| &f.name);
    let includes: String = args.map(|name| format!("#include {name:?}\n")).collect();
    let entry = format!("{includes}#include \"host/entry.hpp\"\n{layout}");
    let of_file = |f: &File| (f.name.replace(['/', '.'], "_"), format!("#include {:?}\n", f.name));
    let mut units: Vec<_> = files.iter().filter(|f| f.name.ends_with(".cu")).map(of_file).collect();
    units.push(("entry".into(), entry));
    let name = |(stem, text): (String, String)| {
        let mut hash = DefaultHasher::new();
        (FLAGS, &sanitize).hash(&mut hash);
        hash_with_includes(kernels, &text, &mut vec![], &mut hash);
        let object = out.join(format!("{stem}-{:016x}.o", hash.finish()));
        (stem, text, object)
    };
    let units: Vec<_> = units.into_iter().map(name).collect();

    let base = || {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(if sanitize.is_empty() { 2 } else { 1 }).include(kernels).warnings(false);
        FLAGS.iter().for_each(|flag| {
            build.flag_if_supported(flag);
        });
        // A GPU refuses vector accesses at odd addresses, which a CPU lets pass.
        const TRAP: &str = "-fsanitize-undefined-trap-on-error";
        if sanitize.is_empty() && build.is_flag_supported(TRAP).unwrap_or(false) {
            build.flag("-fsanitize=alignment").flag(TRAP);
        }
        if !sanitize.is_empty() {
            build.flag(format!("-fsanitize={sanitize}")).flag("-fno-sanitize-recover=all");
        }
        build
    };
    let mut build = base();
    let mut made = vec![];
    for (stem, text, object) in units.iter().filter(|(_, _, object)| !object.exists()) {
        let source = out.join(format!("{stem}.cpp"));
        super::write(&source, text);
        build.file(&source);
        made.push(object);
    }
    if !made.is_empty() {
        for (from, to) in build.compile_intermediates().iter().zip(&made) {
            std::fs::rename(from, to).unwrap_or_else(|why| panic!("{}: {why}", to.display()));
        }
    }
    let mut archive = base();
    units.iter().for_each(|(_, _, object)| {
        archive.object(object);
    });
    // Kernels register themselves: nothing refers to their objects by name.
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

/// Hashes a text and every file below `kernels/` that it reaches by its includes.
fn hash_with_includes(kernels: &Path, text: &str, seen: &mut Vec<String>, hash: &mut DefaultHasher) {
    text.hash(hash);
    for name in text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.strip_suffix('"')) {
        let path = kernels.join(name);
        if !seen.iter().any(|known| known == name) && path.exists() {
            seen.push(name.to_owned());
            let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            hash_with_includes(kernels, &text, seen, hash);
        }
    }
}
