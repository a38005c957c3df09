//! `fair-moe convert`: a model that anybody saved, as a safetensors file.

use crate::output::say;
use fair_moe::Result;
use fair_moe::train::SavedModel;
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Weights of OpenAI (.pt), Hugging Face (.safetensors, .bin), FairCLIP or Fair-MoE (.pth), or our own.
    input: PathBuf,
    /// The safetensors file to write, in single precision and with Hugging Face's names.
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let (model, report) = SavedModel::open(&args.input)?;
    model.write(&args.out)?;
    say!(out, "{}", report.to_string().trim_end())?;
    say!(out, "written to {}", args.out.display())
}
