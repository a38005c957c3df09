//! `fair-moe train`: published models beside each other on one data set.

use crate::output::{complain, say};
use candle_core::{Device, DeviceLocation};
use fair_moe::candle::{best_device, device_named};
use fair_moe::train::{Arch, AttributeWeight, Preset, Run, Settings, Source, TextSource, comparison};
use fair_moe::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

/// How many samples the demo makes, how strong their bias is, and what decides them.
const DEMO: Source = Source::Made { samples: 2000, bias: 1.0, seed: 1 };

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: Data,
    /// Folder for the results [default: runs/NAME, after the data's folder or `demo`].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run that the folder holds.
    #[arg(long)]
    resume: bool,
    /// Where to compute: cpu, or, in a build with the feature candle-cuda, cuda[:N] [default: the first GPU that such a build finds,
    /// else cpu].
    #[arg(long, value_parser = device_named)]
    device: Option<Device>,
    /// The size of the models: tiny (64-pixel images, from scratch), vit-b16 or vit-l14 [default: tiny].
    #[arg(long, value_parser = named::<Arch>, conflicts_with = "config")]
    arch: Option<Arch>,
    /// A model to train: clip, fairclip, fairclip-paper, paper or authors; may be given several times [default: clip and paper].
    #[arg(long, conflicts_with = "config")]
    preset: Vec<Preset>,
    /// The settings of one model, in a file such as settings.json.
    #[arg(long)]
    config: Option<PathBuf>,
    /// A checkpoint to start from: safetensors, or .pt and .pth of OpenAI, FairCLIP or Fair-MoE.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// An attribute whose groups are to be treated alike: race, gender, ethnicity or language, with a weight if not 1, as in
    /// race=0.5; may be given several times [default: race].
    #[arg(long)]
    attribute: Vec<AttributeWeight>,
    /// Training texts: note, label (the prompt of its class) or mix; a sample without a note has its prompt.
    #[arg(long, value_parser = named::<TextSource>)]
    text: Option<TextSource>,
    /// Passes over the training split.
    #[arg(long)]
    epochs: Option<usize>,
    /// Samples in a step.
    #[arg(long)]
    batch: Option<usize>,
    /// The highest learning rate.
    #[arg(long)]
    rate: Option<f64>,
    /// Weight of the groups' distances [default: the preset's].
    #[arg(long)]
    lambda_distance: Option<f64>,
    /// Weight of the groups' dispersions, and with authors of the batch's own too [default: the preset's].
    #[arg(long)]
    lambda_dispersion: Option<f64>,
    /// Decides parameters, order and texts.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to train each model with, beginning with that one.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Any setting, by the name that settings.json gives it, as in loss.lambda_dispersion=1; may be given several times. The
    /// preset clip keeps its own loss.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Data {
    /// A data set in the layout of Harvard-FairVLMed.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Make a data set with a known bias, and train on that: about two minutes on two cores.
    #[arg(long)]
    demo: bool,
}

impl Args {
    /// Those of each model.
    fn models(&self) -> Result<Vec<Settings>> {
        let presets = if self.preset.is_empty() { &[Preset::Clip, Preset::Paper][..] } else { &self.preset };
        let arch = self.arch.unwrap_or(Arch::Tiny);
        let models = match &self.config {
            Some(file) => vec![Settings::read(file)?],
            None => presets.iter().map(|preset| Settings::of(*preset, arch)).collect(),
        };
        models.into_iter().map(|settings| self.change(settings)).collect()
    }

    /// Puts what was asked for over a model's settings.
    fn change(&self, mut settings: Settings) -> Result<Settings> {
        let Settings { attributes, model, training, data, .. } = &mut settings;
        put(attributes, (!self.attribute.is_empty()).then(|| self.attribute.clone()));
        put(&mut model.weights, self.weights.clone().map(Some));
        put(&mut data.text, self.text);
        put(&mut training.epochs, self.epochs);
        put(&mut training.batch, self.batch);
        put(&mut training.rate, self.rate);
        put(&mut training.seed, self.seed);
        let keeps_loss = settings.preset == Preset::Clip;
        if !keeps_loss {
            put(&mut settings.loss.lambda_distance, self.lambda_distance);
            put(&mut settings.loss.lambda_dispersion, self.lambda_dispersion);
            // The published code has one weight for both.
            if settings.preset == Preset::Authors {
                put(&mut settings.loss.lambda_batch_variance, self.lambda_dispersion);
            }
        }
        for (key, value) in &self.set {
            // A name that is none is an error for every model.
            let mut changed = settings.clone();
            changed.set(key, value)?;
            if !(keeps_loss && key.starts_with("loss.")) {
                settings = changed;
            }
        }
        Ok(settings)
    }

    fn out(&self) -> PathBuf {
        let name = self.data.data.as_deref().map_or("demo".as_ref(), |data| data.file_name().unwrap_or("data".as_ref()));
        self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name))
    }
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let (folder, models) = (args.out(), args.models()?);
    let run = Run { data: args.data.data.map_or(DEMO, Source::Folder), models, seeds: args.seeds };
    let device = args.device.unwrap_or_else(best_device);
    let name = match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        _ => "cpu".to_owned(),
    };
    say!(out, "{}\n  {:<28} {name}\n{run}", folder.display(), "device")?;
    out.flush().map_err(crate::output::failed)?;
    let outcome = run.run(&folder, args.resume, &device)?;
    outcome.problems.iter().for_each(|problem| complain(format_args!("left out: {problem}")));
    let table = outcome.summary.map_or_else(
        || comparison(&outcome.models.iter().map(|model| (model.preset.name(), &model.metrics)).collect::<Vec<_>>()),
        |summary| summary.to_string(),
    );
    say!(out, "\n{table}")?;
    outcome.models.iter().try_for_each(|model| say!(out, "{}: {}", model.folder.display(), model.cost))?;
    crate::report::write(&[folder], out)
}

fn put<T>(setting: &mut T, asked: Option<T>) {
    if let Some(value) = asked {
        *setting = value;
    }
}

/// A value by the name that files give it.
pub fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    serde_json::from_value(name.into()).map_err(|e| Error::Refused(e.to_string()))
}

fn key_value(text: &str) -> Result<(String, String)> {
    let parts = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    parts.ok_or_else(|| Error::config("a setting", "KEY=VALUE", text))
}
