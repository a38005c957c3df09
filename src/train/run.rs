//! A whole run: data, both models, their measures.

use super::evaluate::measure;
use super::examples::Examples;
use super::settings::Settings;
use super::texts::Vocabulary;
use super::trainer::{Folder, Task, train};
use crate::data::{DataSet, MakeConfig, Problem, Split, make};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::metrics::Metrics;
use crate::model::ClipConfig;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

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

/// A run: it writes `config.json`, the preprocessed images of each split, and in each of `clip` and `fair-moe` a `checkpoint.safetensors`, the selected
/// `model.safetensors`, `log.jsonl`, `metrics.json` and `predictions.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The data.
    pub data: Source,
    /// The settings.
    pub settings: Settings,
}

impl fmt::Display for Run {
    /// The data, and one setting a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Source::Folder(folder) => writeln!(f, "  {:<18} {}", "data", folder.display())?,
            Source::Made { samples, bias, seed } => {
                writeln!(f, "  {:<18} made: {samples} samples, bias {bias}, seed {seed}", "data")?;
            }
        }
        self.settings.fmt(f)
    }
}

/// How both models fare on the test split.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Plain CLIP.
    pub clip: Metrics,
    /// Fair-MoE.
    pub fair_moe: Metrics,
    /// The data's files that were left out because something is wrong with them.
    pub problems: Vec<Problem>,
}

/// What a run's own description is called.
const CONFIG: &str = "config.json";

impl Run {
    /// Does the run in the folder `out`, or, with `resume`, goes on with it. Models train side by side, a thread each.
    ///
    /// # Errors
    /// When settings are out of range, `out` is used (or, with `resume`, holds another run), data cannot be read, a file cannot be
    /// written, or the loss is no longer a number.
    pub fn run(&self, out: &Path, resume: bool) -> Result<Outcome> {
        self.settings.check()?;
        // A folder without a data set is refused before anything is written.
        let given = match &self.data {
            Source::Folder(folder) => Some(DataSet::open(folder)?),
            Source::Made { .. } => None,
        };
        self.claim(out, resume)?;
        let mut data = given.map_or_else(|| self.made(&out.join("data")), Ok)?;
        let side = ClipConfig::tiny(1, 1).image;
        let mut load = |split: Split| Examples::load(&mut data, split, side, Some(&out.join(format!("{split}.images"))));
        let (training, validation, test) = (load(Split::Training)?, load(Split::Validation)?, load(Split::Test)?);
        let vocabulary = Vocabulary::of(training.samples.iter().filter_map(|s| s.note.as_deref()));
        let task = Task { settings: &self.settings, training: &training, validation: &validation, vocabulary: &vocabulary };
        let bars = MultiProgress::new();
        let model = |name: &'static str, fair: bool| -> Result<Metrics> {
            let folder = Folder::new(out.join(name))?;
            let model = train(&task, fair, &folder, &bars.add(bar(name)))?;
            measure(&model, &test, folder.path())
        };
        let (clip, fair_moe) = std::thread::scope(|scope| {
            let clip = scope.spawn(|| model("clip", false));
            let fair_moe = model("fair-moe", true);
            (clip.join().unwrap_or_else(|_| Err(Error::Refused("the training of clip ended early".into()))), fair_moe)
        });
        Ok(Outcome { clip: clip?, fair_moe: fair_moe?, problems: data.problems().to_vec() })
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
        _ => (that != this).then(|| format!("{name} was {that}, and is {this} now")),
    }
}

/// Drawn on standard error, and only if that is a terminal.
fn bar(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:8} {bar:30} {pos}/{len} {eta:>4}  {msg}");
    let bar = ProgressBar::new(0).with_prefix(name);
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}
