//! `fair-moe run`: replays a recorded case.

use crate::device::Device;
use fair_moe::case::{Case, replay};
use fair_moe::{DType, Result};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The case, a .safetensors file.
    case: PathBuf,
    /// Where to compute: cpu.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// What the layer computes in: f64, f32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// Where the results go, as f64 under the case's own names.
    #[arg(long)]
    out: PathBuf,
}

/// Prints nothing: where the results are is what was asked for.
pub fn run(args: Args, _: &mut dyn Write) -> Result<()> {
    let results = match args.device {
        Device::Cpu => replay(Case::read(&args.case)?, args.dtype)?,
    };
    results.write(&args.out)
}
