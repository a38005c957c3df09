//! `fair-moe train`: plain CLIP and Fair-MoE, side by side.

use crate::output::{complain, say};
use fair_moe::model::Preset;
use fair_moe::train::{Arch, Run, Settings, Source, TextSource, comparison};
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
    /// The size of both models: tiny (64-pixel images, from scratch).
    #[arg(long, default_value = "tiny", value_parser = named::<Arch>)]
    arch: Arch,
    /// Whose mixtures and loss Fair-MoE has: paper or authors.
    #[arg(long, default_value_t = Preset::Paper)]
    preset: Preset,
    /// The attribute whose groups Fair-MoE treats alike: race, gender, ethnicity or language.
    #[arg(long)]
    attribute: Option<String>,
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
    /// Weight of the groups' dispersions [default: the preset's].
    #[arg(long)]
    lambda_dispersion: Option<f64>,
    /// Decides parameters, order and texts.
    #[arg(long)]
    seed: Option<u64>,
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
    fn settings(&self) -> Settings {
        let tiny = Settings::tiny(self.preset);
        Settings {
            arch: self.arch,
            attribute: self.attribute.clone().unwrap_or(tiny.attribute),
            text: self.text.unwrap_or(tiny.text),
            epochs: self.epochs.unwrap_or(tiny.epochs),
            batch: self.batch.unwrap_or(tiny.batch),
            rate: self.rate.unwrap_or(tiny.rate),
            lambda_distance: self.lambda_distance.unwrap_or(tiny.lambda_distance),
            lambda_dispersion: self.lambda_dispersion.unwrap_or(tiny.lambda_dispersion),
            seed: self.seed.unwrap_or(tiny.seed),
            ..tiny
        }
    }

    fn out(&self) -> PathBuf {
        let name = self.data.data.as_deref().map_or("demo".as_ref(), |data| data.file_name().unwrap_or("data".as_ref()));
        self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name))
    }
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let folder = args.out();
    let settings = args.settings();
    let run = Run { data: args.data.data.map_or(DEMO, Source::Folder), settings };
    say!(out, "{}\n{}", folder.display(), run)?;
    out.flush().map_err(crate::output::failed)?;
    let outcome = run.run(&folder, args.resume)?;
    outcome.problems.iter().for_each(|problem| complain(format_args!("left out: {problem}")));
    say!(out, "\n{}", comparison(&[("CLIP", &outcome.clip), ("Fair-MoE", &outcome.fair_moe)]).trim_end())
}

/// A value by the name that files give it.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    serde_json::from_value(name.into()).map_err(|e| Error::Refused(e.to_string()))
}
