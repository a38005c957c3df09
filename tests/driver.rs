//! The seam: argument structs and the table of kernels are the same on both sides, and a launch runs.
#![cfg(feature = "emulate")]

use fair_moe::gpu::{
    args,
    driver::emulated::Emulated,
    kernels::{KERNELS, PLANTED},
};

#[test]
fn both_sides_lay_arguments_out_alike() {
    let rust: Vec<usize> = args::LAYOUT.iter().map(|field| field.2).collect();
    for (field, cpp) in args::LAYOUT.iter().zip(Emulated::layout()) {
        assert_eq!(field.2, cpp, "{}.{}", field.0, field.1);
    }
    assert!(!rust.is_empty());
}

#[test]
fn every_kernel_is_in_both_tables() {
    let mut ours: Vec<_> = KERNELS.iter().chain(PLANTED).map(|k| (k.name.to_owned(), k.threads, k.args_bytes)).collect();
    ours.sort();
    assert_eq!(ours, Emulated::compiled());
}
