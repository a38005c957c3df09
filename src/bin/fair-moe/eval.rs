//! `fair-moe eval`: how accurate and how fair a saved model is.

use crate::output::say;
use candle_core::Device;
use fair_moe::Result;
use fair_moe::candle::{best_device, device_named};
use fair_moe::eval::{Features, HeadConfig, LinearProbe, evaluate};
use fair_moe::train::comparison;
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
    /// Folder for metrics.json, predictions.csv, and of a model with mixtures routing.json.
    #[arg(long)]
    out: PathBuf,
    /// Where to compute: cpu, or, in a build with the feature candle-cuda, cuda[:N] [default: the first GPU that such a build finds,
    /// else cpu].
    #[arg(long, value_parser = device_named)]
    device: Option<Device>,
    /// Instead of asking the model which prompt is nearer, fit a head to its frozen features of the training split.
    #[arg(long)]
    linear_probe: bool,
    /// What the head reads: image, or image-text (the note's features beside the image's).
    #[arg(long, requires = "linear_probe", default_value = "image", value_parser = crate::train::named::<Features>)]
    features: Features,
    /// Passes of the head over the training split.
    #[arg(long, requires = "linear_probe", default_value_t = HeadConfig::default().epochs)]
    epochs: usize,
    /// Decides the head's first weights, and the order of samples.
    #[arg(long, requires = "linear_probe", default_value_t = 1)]
    seed: u64,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let device = args.device.unwrap_or_else(best_device);
    let metrics = if args.linear_probe {
        let head = HeadConfig { epochs: args.epochs, ..HeadConfig::default() };
        LinearProbe { features: args.features, head, seed: args.seed }.run(&args.checkpoint, &args.data, &args.out, &device)?
    } else {
        evaluate(&args.checkpoint, &args.data, &args.out, &device)?
    };
    say!(out, "{}", comparison(&[("model", &metrics)]).trim_end())?;
    crate::report::write(&[args.out], out)
}
