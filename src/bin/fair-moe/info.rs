//! `fair-moe info`: what this binary is, and what it finds on this machine.

use crate::output::say;
use fair_moe::Result;
use fair_moe::bench::{cpu_name, instruction_sets};
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
    let threads = rayon::current_num_threads();
    say!(out, "cpu        {}, {threads} threads, {}", cpu_name(), instruction_sets().join(" "))?;
    #[cfg(feature = "cuda")]
    for (what, there) in fair_moe::gpu::machine::describe() {
        say!(out, "{what:<10} {there}")?;
    }
    #[cfg(not(feature = "cuda"))]
    say!(out, "cuda       needs the feature `cuda`, which this build does not have")?;
    let emulated = if cfg!(feature = "emulate") { "the kernels, on the CPU" } else { "needs the feature `emulate`" };
    say!(out, "emulated   {emulated}")
}
