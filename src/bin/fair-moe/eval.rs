//! `fair-moe eval`: how accurate and how fair a saved model is.

use crate::output::say;
use fair_moe::Result;
use fair_moe::train::{comparison, evaluate};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// A model, or a checkpoint of its training.
    #[arg(long)]
    checkpoint: PathBuf,
    /// A data set in the layout of Harvard-FairVLMed; its test split is measured.
    #[arg(long)]
    data: PathBuf,
    /// Folder for metrics.json and predictions.csv.
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let metrics = evaluate(&args.checkpoint, &args.data, &args.out)?;
    say!(out, "{}", comparison(&[("model", &metrics)]).trim_end())
}
