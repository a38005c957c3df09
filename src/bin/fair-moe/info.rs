//! `fair-moe info`: what this binary is, and what it finds on this machine.

use crate::output::say;
use fair_moe::Result;
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: Args, out: &mut dyn Write) -> Result<()> {
    let commit = if env!("FAIR_MOE_COMMIT").is_empty() { "unknown" } else { env!("FAIR_MOE_COMMIT") };
    let features =
        [("cuda", cfg!(feature = "cuda")), ("candle", cfg!(feature = "candle")), ("emulate", cfg!(feature = "emulate"))];
    let features: Vec<_> = features.iter().filter(|f| f.1).map(|f| f.0).collect();
    say!(out, "version    {}", env!("CARGO_PKG_VERSION"))?;
    say!(out, "commit     {commit}")?;
    say!(out, "features   cli model {}", features.join(" "))?;
    say!(out, "cpu        {} threads; {}", rayon::current_num_threads(), instruction_sets().join(" "))?;
    say!(out, "cuda       not there yet")?;
    say!(out, "emulated   not there yet")
}

/// The instruction sets of this CPU that decide how fast the layer runs.
fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let sets = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let sets = [("neon", true), ("bf16", std::arch::is_aarch64_feature_detected!("bf16"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let sets: [(&str, bool); 0] = [];
    sets.into_iter().filter(|s| s.1).map(|s| s.0).collect()
}
