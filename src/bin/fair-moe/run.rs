//! `fair-moe run`: replays a recorded case.

use fair_moe::case::{Case, replay};
use fair_moe::{DType, Device, Result};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The case, a .safetensors file.
    case: PathBuf,
    /// Where to compute: cpu, cuda[:N] or emulated[:SEED][@ARCH]; without it, the best there is for the dtype.
    #[arg(long)]
    device: Option<Device>,
    /// What the layer computes in: f64, f32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// Where the results go, as f64 under the case's own names.
    #[arg(long)]
    out: PathBuf,
}

/// Prints nothing: where the results are is what was asked for.
pub fn run(args: Args, _: &mut dyn Write) -> Result<()> {
    let best = || if args.dtype == DType::F64 { Device::cpu() } else { Device::best().0 };
    let device = args.device.unwrap_or_else(best);
    replay(Case::read(&args.case)?, args.dtype, &device)?.write(&args.out)
}
