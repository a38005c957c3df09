//! What is said where the NVIDIA driver is missing, too old, or has no GPU that will do: one sentence each, and no panic. A stand-in for
//! its library is compiled for each case, and asked by a process of its own.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use fair_moe::Device;
use fair_moe::gpu::driver::cuda::Cuda;
use std::fs;
use std::process::Command;

/// The functions that have to be there, as the source lists them.
fn functions() -> Vec<&'static str> {
    let lines = include_str!("../src/gpu/driver/libcuda.rs").lines();
    let names = lines.filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    names.filter(|name| name.starts_with("cu")).collect()
}

/// In C: all functions, doing nothing, but for those that are given, and without that one.
fn stand_in(given: &[(&str, &str)], without: &str) -> String {
    let plain = functions().into_iter().filter(|name| *name != without && given.iter().all(|one| one.0 != *name));
    let plain = plain.map(|name| format!("int {name}() {{ return 0; }}\n"));
    given.iter().map(|(name, code)| format!("int {name}{code}\n")).chain(plain).collect()
}

#[test]
#[ignore = "run by the tests below, with a stand-in for libcuda"]
fn tell() {
    println!("\nWHY: {}", Cuda::new(0).unwrap_err());
    let (device, why) = Device::best();
    println!("BEST: {device}, {}", why.unwrap());
}

/// What is said where that C code is libcuda.
fn told(libcuda: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("libcuda.c");
    fs::write(&source, libcuda).unwrap();
    let library = folder.path().join("libcuda.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-w", "-std=gnu11", "-o"]).args([&library, &source]).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let this = std::env::current_exe().unwrap();
    let told =
        Command::new(this).args(["--exact", "tell", "--ignored", "--nocapture"]).env("LD_LIBRARY_PATH", folder.path()).output();
    let told = told.unwrap();
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success(), "{said}\n{}", String::from_utf8_lossy(&told.stderr));
    let after = |start: &str| said.lines().find_map(|line| line.strip_prefix(start).map(str::to_owned));
    let why = after("WHY: ").unwrap();
    assert_eq!(after("BEST: ").unwrap(), format!("cpu, {why}"), "the best device is the CPU, and the reason is kept");
    why
}

const NEW: (&str, &str) = ("cuDriverGetVersion", "(int* v) { *v = 13000; return 0; }");
const ONE_GPU: (&str, &str) = ("cuDeviceGetCount", "(int* n) { *n = 1; return 0; }");

#[test]
fn what_is_no_driver_or_too_old_a_one() {
    assert!(told("int nothing;\n").contains("libcuda is not NVIDIA's driver"));
    let old = ("cuDriverGetVersion", "(int* v) { *v = 11040; return 0; }");
    let why = "CUDA cannot be used: the NVIDIA driver, which is of CUDA 11.4, is too old: it must be of CUDA 12.0 or newer";
    assert_eq!(told(&stand_in(&[old], "cuLaunchKernelEx")), why);
    let why = "CUDA cannot be used: the NVIDIA driver, which is of CUDA 13.0, lacks cuGraphLaunch";
    assert_eq!(told(&stand_in(&[NEW], "cuGraphLaunch")), why);
}

#[test]
fn a_driver_with_no_gpu_or_with_too_old_a_one() {
    let none = ("cuInit", "(unsigned flags) { return 100; }");
    assert_eq!(told(&stand_in(&[NEW, none], "")), "CUDA cannot be used: there is no GPU that the NVIDIA driver can use");
    let broken = ("cuInit", "(unsigned flags) { return 803; }");
    let why = "CUDA cannot be used: the NVIDIA driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)";
    assert_eq!(told(&stand_in(&[NEW, broken], "")), why);
    let zero = ("cuDeviceGetCount", "(int* n) { *n = 0; return 0; }");
    assert_eq!(told(&stand_in(&[NEW, zero], "")), "cuda:0 cannot be used: there is no GPU");

    let name = ("cuDeviceGetName", "(char* name, int length, int device) { name[0] = 'G'; return 0; }");
    let turing = ("cuDeviceGetAttribute", "(int* value, int what, int device) { *value = what == 75 ? 7 : 5; return 0; }");
    let why = "cuda:0 (G, sm_75) cannot be used: the kernels are for sm_80 and newer";
    assert_eq!(told(&stand_in(&[NEW, ONE_GPU, name, turing], "")), why);

    let ampere = ("cuDeviceGetAttribute", "(int* value, int what, int device) { *value = what == 75 ? 8 : 0; return 0; }");
    let taken = ("cuDevicePrimaryCtxRetain", "(void** context, int device) { return 46; }");
    let why = "cuDevicePrimaryCtxRetain failed: CUDA_ERROR_DEVICE_UNAVAILABLE (46)";
    assert_eq!(told(&stand_in(&[NEW, ONE_GPU, name, ampere, taken], "")), why);
}
