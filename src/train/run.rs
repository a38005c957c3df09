//! A whole run: data, models, their measures.

use super::cost::{Clock, Cost};
use super::examples::Examples;
use super::folder::Folder;
use super::groups::GroupLoader;
use super::saved::SavedModel;
use super::settings::{Arch, LongNotes, Preset, Settings};
use super::summary::Summary;
use super::texts::{Vocabulary, long_notes};
use super::trainer::{Data, train};
use crate::data::{DataSet, MakeConfig, Problem, Sample, Split, make};
use crate::error::{Error, Result};
use crate::eval::measure;
use crate::files::{write_atomically, write_json};
use crate::metrics::Metrics;
use candle_core::Device;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where a run's data come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A data set in this folder.
    Folder(PathBuf),
    /// A data set that the run makes for itself, in `data` of its folder.
    Made {
        /// How many samples.
        samples: usize,
        /// How strong its bias is, from 0.
        bias: f64,
        /// What decides it.
        seed: u64,
    },
}

/// A run of several models on the same data. It writes `config.json`, the preprocessed images of each split, and for each model,
/// in a folder named after its preset (with several seeds `seed-N` in there), `settings.json`, `start.json`, `log.jsonl`,
/// `checkpoint.safetensors`, the selected `model.safetensors`, `metrics.json`, `predictions.csv` and `cost.json`; with several
/// seeds also `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The data.
    pub data: Source,
    /// The models, one of each preset at most, and all of one size.
    pub models: Vec<Settings>,
    /// How often each is trained: with the seed of its settings, the next one, and so on.
    pub seeds: u64,
}

/// One model that a run has trained.
#[derive(Clone, Debug)]
pub struct Trained {
    /// What its settings started from.
    pub preset: Preset,
    /// Its seed.
    pub seed: u64,
    /// Its files.
    pub folder: PathBuf,
    /// How it fares on the test split.
    pub metrics: Metrics,
    /// What it took.
    pub cost: Cost,
}

impl fmt::Display for Run {
    /// The data, and one setting a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Source::Folder(folder) => writeln!(f, "  {:<28} {}", "data", folder.display())?,
            Source::Made { samples, bias, seed } => {
                writeln!(f, "  {:<28} made: {samples} samples, bias {bias}, seed {seed}", "data")?;
            }
        }
        writeln!(f, "  {:<28} {} each", "seeds", self.seeds)?;
        // What is the same in all models is said once.
        let Some((first, others)) = self.models.split_first() else { return Ok(()) };
        let all: Vec<String> = others.iter().map(Settings::to_string).collect();
        for line in first.to_string().lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            let value = |text: &str| line_of(text, name);
            let values: Vec<String> = std::iter::once(value(line)).chain(all.iter().map(|text| value(text))).collect();
            let same = values.iter().all(|other| *other == values[0]);
            writeln!(f, "  {name:<28} {}", if same { values[0].clone() } else { values.join(" | ") })?;
        }
        Ok(())
    }
}

/// What stands behind a setting's name in settings that are written a line each.
fn line_of(text: &str, name: &str) -> String {
    let found = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_default().trim().to_owned()
}

/// How a run came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its models: preset by preset, seed by seed.
    pub models: Vec<Trained>,
    /// Mean and standard deviation over the seeds, where there are several.
    pub summary: Option<Summary>,
    /// The data's files that were left out because something is wrong with them.
    pub problems: Vec<Problem>,
}

/// What a run's own description is called.
const CONFIG: &str = "config.json";

impl Run {
    /// Does the run in the folder `out` on a device of candle's (see [`crate::candle::device`]), or, with `resume`, goes on with it,
    /// there or on another. On the CPU small models train side by side, a thread each; of large ones, and on a GPU, there is one in
    /// memory at a time.
    ///
    /// # Errors
    /// When settings are out of range, `out` is used (or, with `resume`, holds another run), data cannot be read, a file cannot be
    /// written, or the loss is no longer a number.
    pub fn run(&self, out: &Path, resume: bool, device: &Device) -> Result<Outcome> {
        let arch = self.check()?;
        // What cannot be trained is refused before anything is written.
        let given = match &self.data {
            Source::Folder(folder) => Some(DataSet::open(folder)?),
            Source::Made { .. } => None,
        };
        given.as_ref().map_or(Ok(()), |set| self.check_on(set.samples(Split::Training)))?;
        self.claim(out, resume)?;
        let mut set = given.map_or_else(|| self.made(&out.join("data")), Ok)?;
        let side = arch.image();
        let mut load = |split: Split| Examples::load(&mut set, split, side, Some(&out.join(format!("{split}.images"))));
        let (training, validation, test) = (load(Split::Training)?, load(Split::Validation)?, load(Split::Test)?);
        // Samples whose image cannot be read have left.
        self.check_on(&training.samples)?;
        let data = Data::new(arch, training, validation, test)?;
        let trainings = self.trainings(out);
        let side_by_side = match arch {
            Arch::Tiny if device.is_cpu() => std::thread::available_parallelism().map_or(1, usize::from).min(trainings.len()),
            _ => 1,
        };
        let (next, bars) = (AtomicUsize::new(0), MultiProgress::new());
        // Each thread takes the next training that nobody has taken.
        let work = || -> Result<Vec<(usize, Trained)>> {
            let mut done = vec![];
            while let Some((i, (settings, folder))) = take(&next, &trainings) {
                done.push((i, one(settings, &data, folder.clone(), &bars, device)?));
            }
            Ok(done)
        };
        let done: Result<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..side_by_side).map(|_| scope.spawn(work)).collect();
            let ended = || Error::Refused("a training ended early".into());
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(ended()))).collect()
        });
        let mut done = done?.concat();
        done.sort_by_key(|(i, _)| *i);
        let models: Vec<Trained> = done.into_iter().map(|(_, trained)| trained).collect();
        let summary = (self.seeds > 1).then(|| Summary::of(&models));
        summary.as_ref().map_or(Ok(()), |summary| write_json(&out.join("summary.json"), summary))?;
        Ok(Outcome { models, summary, problems: set.problems().to_vec() })
    }

    /// Checks that such a run can be; the size of its models.
    fn check(&self) -> Result<Arch> {
        self.models.iter().try_for_each(Settings::check)?;
        let first = self.models.first().ok_or_else(|| Error::config("the number of models", "at least 1", 0))?;
        for (i, model) in self.models.iter().enumerate() {
            if self.models[..i].iter().any(|other| other.preset == model.preset) {
                return Err(Error::Refused(format!("the preset {} is named twice", model.preset)));
            }
            if model.arch != first.arch {
                return Err(Error::Refused("all models of a run must have the same size".into()));
            }
        }
        if !(1..=1000).contains(&self.seeds) {
            return Err(Error::config("the number of seeds", "from 1 to 1000", self.seeds));
        }
        Ok(first.arch)
    }

    /// Checks that each model can be trained on these samples, from what it starts from.
    fn check_on(&self, training: &[Sample]) -> Result<()> {
        let long = long_notes(training);
        for settings in &self.models {
            if settings.steps(training.len()) == 0 {
                let most = format!("at most the {} training samples", training.len());
                return Err(Error::config("the batch", most, settings.training.batch));
            }
            if long > 0 && settings.data.long_notes == LongNotes::Error {
                return Err(Error::Refused(format!(
                    "{long} training notes have more than 77 tokens, which {} refuses, as published: data.long_notes=cut cuts them",
                    settings.preset
                )));
            }
            if settings.loss.reads_groups() {
                GroupLoader::all(settings, training)?;
            }
            if let Some(path) = &settings.model.weights {
                SavedModel::weights(settings, path, &Vocabulary::on(settings.arch, training))?;
            }
        }
        Ok(())
    }

    /// Every training with its folder.
    fn trainings(&self, out: &Path) -> Vec<(Settings, PathBuf)> {
        let seed_of = |settings: &Settings, i: u64| {
            let mut settings = settings.clone();
            settings.training.seed = settings.training.seed.wrapping_add(i);
            let folder = out.join(settings.preset.name());
            let folder = if self.seeds > 1 { folder.join(format!("seed-{}", settings.training.seed)) } else { folder };
            (settings, folder)
        };
        self.models.iter().flat_map(|settings| (0..self.seeds).map(move |i| seed_of(settings, i))).collect()
    }

    /// Makes `out` this run's folder.
    fn claim(&self, out: &Path, resume: bool) -> Result<()> {
        let config = out.join(CONFIG);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&config, e))?;
        if resume && config.exists() {
            let earlier = std::fs::read_to_string(&config).map_err(|e| Error::file(&config, e))?;
            let parse = |text: &str| serde_json::from_str(text).map_err(|e| Error::file(&config, e));
            return match difference(&parse(&earlier)?, &parse(&text)?, "") {
                None => Ok(()),
                Some(what) => Err(Error::Refused(format!("{} cannot be resumed with other settings: {what}", out.display()))),
            };
        }
        if used(out)? {
            let way =
                if resume { "holds no run to resume" } else { "is not empty: go on with it by --resume, or choose another" };
            return Err(Error::file(out, format!("this folder {way}")));
        }
        std::fs::create_dir_all(out).map_err(|e| Error::file(out, e))?;
        write_atomically(&config, |file| writeln!(file, "{text}"))
    }

    /// The data that the run makes for itself; where they are there already, they are whole.
    fn made(&self, folder: &Path) -> Result<DataSet> {
        if let (Source::Made { samples, bias, seed }, false) = (&self.data, folder.exists()) {
            make(folder, &MakeConfig { samples: *samples, bias: *bias, seed: *seed })?;
        }
        DataSet::open(folder)
    }
}

/// Whether a folder holds anything but what a killed write left behind.
fn used(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.any(|e| !e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with('.')))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::file(folder, e)),
    }
}

/// The first setting in which two runs differ.
fn difference(that: &serde_json::Value, this: &serde_json::Value, name: &str) -> Option<String> {
    match (that, this) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| difference(&that[key], &this[key], key))
        }
        (serde_json::Value::Array(a), serde_json::Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(that, this)| difference(that, this, name))
        }
        _ => (that != this).then(|| format!("{name} was {that}, and is {this} now")),
    }
}

/// The next that nobody has taken, with its number.
fn take<'a, T>(next: &AtomicUsize, all: &'a [T]) -> Option<(usize, &'a T)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    all.get(i).map(|one| (i, one))
}

/// Trains and measures one model.
fn one(settings: &Settings, data: &Data, folder: PathBuf, bars: &MultiProgress, device: &Device) -> Result<Trained> {
    let folder = Folder::new(folder)?;
    let clock = Clock::start(folder.cost());
    let model = train(settings, data, &folder, &clock, &bars.add(bar(settings.preset.name())), device)?;
    let metrics = measure(&model, &data.validation, &data.test, folder.path())?;
    let cost = clock.save()?;
    Ok(Trained { preset: settings.preset, seed: settings.training.seed, folder: folder.path().to_owned(), metrics, cost })
}

/// Drawn on standard error, and only if that is a terminal.
fn bar(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:14} {bar:30} {pos}/{len} {eta:>4}  {msg}");
    let bar = ProgressBar::new(0).with_prefix(name);
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}
