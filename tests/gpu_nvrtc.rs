//! NVRTC compiles every kernel for every architecture, and the cache finds what it made. No GPU is needed; without NVRTC these tests
//! say that they are skipped, or fail where FAIR_MOE_REQUIRE names it.
#![cfg(feature = "cuda")]

mod support;

use fair_moe::Error;
use fair_moe::gpu::args::LAYOUT;
use fair_moe::gpu::driver::Arch;
use fair_moe::gpu::driver::cache::Cache;
use fair_moe::gpu::driver::compiler::Compiler;
use fair_moe::gpu::driver::locate;
use fair_moe::gpu::driver::nvrtc::Nvrtc;
use fair_moe::gpu::driver::program::Program;
use fair_moe::gpu::kernels::{KERNELS, Kernel, SOURCES};
use fair_moe::gpu::report::{kernels_of, report};
use std::fs;
use std::time::Instant;

/// Static shared memory that every architecture has; a launch adds what is dynamic.
const MOST_SHARED: u32 = 98_304;

fn nvrtc() -> Option<Nvrtc> {
    locate::find(None).map_err(|why| support::skip("nvrtc", &why.to_string())).ok()
}

fn compiler(nvrtc: &Nvrtc, cache: Cache) -> Compiler {
    Compiler { nvrtc: Ok(nvrtc.clone()), cache: Some(cache), newest_major: u32::MAX }
}

#[test]
fn every_kernel_compiles_for_every_architecture_with_no_spill_no_stack_and_no_note() {
    let Some(nvrtc) = nvrtc() else { return };
    // Kept between runs: the key holds all that a cubin depends on.
    let compiler = compiler(&nvrtc, Cache::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels")));
    let mut faults = vec![];
    for arch in Arch::ALL {
        let start = Instant::now();
        let report = report(&compiler, arch).unwrap();
        eprintln!("{arch}: {} kernels in {:.1} s", report.kernels.len(), start.elapsed().as_secs_f64());
        assert_eq!(report.kernels.len(), KERNELS.iter().filter(|k| !k.hopper || arch == Arch::HOPPER).count());
        for usage in report.kernels {
            if !usage.is_clean() || usage.shared_bytes > MOST_SHARED || usage.registers == 0 {
                faults.push(format!("{arch}: {usage:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_engine_has_what_the_others_have_so_that_no_architecture_lacks_a_kernel() {
    let of = |engine: &str, dtype: &str| -> Vec<String> {
        let middle = format!("_{engine}_");
        let engines = KERNELS.iter().filter(|k| k.file.starts_with("experts/") && k.name.ends_with(dtype));
        let mut names: Vec<_> = engines.filter_map(|k| Some(k.name.split_once(&middle)?.0.to_owned())).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(of("ffma", "f32"), of("mma", "bf16"));
    assert_eq!(of("mma", "bf16"), of("mma", "f16"));
    for dtype in ["bf16", "f16"] {
        let general = of("mma", dtype);
        // What it merges, others have one by one.
        let known = |name: &String| general.contains(name) || name == "experts_merged";
        assert!(of("wgmma", dtype).iter().all(known), "a kernel for sm_90a alone");
    }
    assert!(KERNELS.iter().all(|kernel| !kernel.hopper || kernel.name.contains("_wgmma_") || kernel.name.starts_with("facts_")));
}

#[test]
fn nvrtc_lays_arguments_out_as_rust_does() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut text: String = SOURCES
        .iter()
        .filter(|source| source.0.starts_with("args/"))
        .map(|source| format!("#include \"{}\"\n", source.0))
        .collect();
    // The emulation's own tests are no kernels for users.
    for (of, field, offset) in LAYOUT.iter().filter(|field| !field.0.starts_with("Planted")) {
        text += &match field.is_empty() {
            true => format!("static_assert(sizeof({of}) == {offset}, \"the size of {of}\");\n"),
            false => format!("static_assert(__INTADDR__(&(({of}*)0)->{field}) == {offset}, \"{of}.{field}\");\n"),
        };
    }
    nvrtc.compile(&Program::new("layout.cu", text.clone()), Arch(80)).unwrap_or_else(|why| panic!("{why}"));
    // That the compiler looks at these lines at all.
    text += "static_assert(sizeof(Combine) == 7, \"not seven\");\n";
    let refused = nvrtc.compile(&Program::new("layout.cu", text), Arch(80)).unwrap_err();
    assert!(matches!(&refused, Error::Compile { log, .. } if log.contains("not seven")), "{refused}");
}

/// What one bf16 layer launches on an architecture before wgmma.
fn layer() -> Vec<&'static Kernel> {
    let stems = ["gate", "route", "experts", "combine"];
    let in_layer = |kernel: &&Kernel| stems.iter().any(|stem| kernel.name.starts_with(stem));
    let other = |kernel: &&Kernel| ["f32", "f16"].iter().any(|dtype| kernel.name.ends_with(&format!("_{dtype}")));
    kernels_of(Arch(80)).into_iter().filter(in_layer).filter(|kernel| !other(kernel)).collect()
}

#[test]
fn a_layers_kernels_are_found_in_the_cache_even_with_no_nvrtc() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let (kernels, arch) = (layer(), Arch(80));
    let timed = |what: &str, compiler: &Compiler| {
        let start = Instant::now();
        let images = compiler.images(&kernels, arch).unwrap();
        let (ms, compiling): (f64, f64) = (start.elapsed().as_secs_f64() * 1e3, images.iter().map(|image| image.seconds).sum());
        eprintln!("{} kernels of a layer, {what}: {ms:.1} ms; compiled in {compiling:.1} s, added up", images.len());
        images
    };
    let cold = timed("cold", &compiler(&nvrtc, cache.clone()));
    assert_eq!(timed("from the cache", &compiler(&nvrtc, cache.clone())), cold);
    let without = Compiler { nvrtc: Err("there is none".into()), cache: Some(cache.clone()), newest_major: 99 };
    assert_eq!(timed("from the cache, with no NVRTC", &without), cold);

    let newest_major = nvrtc.version.major - 1;
    let older = Compiler { newest_major, nvrtc: without.nvrtc.clone(), cache: without.cache.clone() };
    assert!(matches!(older.images(&kernels, arch), Err(Error::Unavailable { .. })), "a driver that cannot run them");

    let entry = fs::read_dir(folder.path()).unwrap().flatten().next().unwrap().path();
    let whole = fs::read(&entry).unwrap();
    fs::write(&entry, &whole[..whole.len() / 2]).unwrap();
    assert!(without.images(&kernels, arch).is_err(), "half an entry is none");
    let again = compiler(&nvrtc, cache.clone()).images(&kernels, arch).unwrap();
    assert!(again.iter().zip(&cold).all(|(new, old)| new.cubin == old.cubin), "it is compiled anew");
    assert_eq!(without.images(&kernels, arch).unwrap(), again, "and written anew");
}

#[test]
fn with_neither_nvrtc_nor_cache_there_is_one_sentence() {
    let none = Compiler { nvrtc: Err("NVRTC cannot be used: there is none".into()), cache: None, newest_major: u32::MAX };
    let why = none.images(&kernels_of(Arch(80)), Arch(80)).unwrap_err().to_string();
    assert!(why.contains("sm_80") && why.ends_with("there is none") && why.lines().count() == 1, "{why}");
}

#[test]
fn what_does_not_compile_gives_its_log_and_an_unknown_architecture_those_that_are_known() {
    let Some(nvrtc) = nvrtc() else { return };
    let broken = nvrtc.compile(&Program::new("broken.cu", "#include \"lib/ptx.cuh\"\nint x = y;\n"), Arch(80)).unwrap_err();
    let why = broken.to_string();
    assert!(why.contains("broken.cu") && why.contains("sm_80") && why.contains("\"y\" is undefined"), "{why}");
    let unknown = nvrtc.compile(&Program::new("empty.cu", ""), Arch(33)).unwrap_err().to_string();
    assert!(unknown.contains("knows no sm_33, but") && unknown.contains("sm_80"), "{unknown}");
}
