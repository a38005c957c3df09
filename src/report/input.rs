//! The files of one model's folder.

use crate::error::{Error, Result};
use crate::eval::{Predictions, Routing};
use crate::metrics::Metrics;
use crate::train::{Epoch, Start};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What is known of one model. Whatever a folder lacks beside metrics and predictions is none, or empty.
pub(super) struct Model {
    /// The folder's own name.
    pub(super) folder: String,
    pub(super) metrics: Metrics,
    pub(super) predictions: Predictions,
    pub(super) routing: Option<Routing>,
    pub(super) epochs: Vec<Epoch>,
    pub(super) start: Option<Start>,
    pub(super) settings: Value,
    /// How the data were made, if a run made them for itself.
    pub(super) made: Option<Value>,
}

impl Model {
    /// Probability and label of each sample of a group; nobody's where predictions do not know it.
    pub(super) fn of(&self, attribute: &str, group: &str) -> (Vec<f64>, Vec<u8>) {
        let attributes = self.predictions.attributes();
        let known = attributes.iter().find(|a| a.name == attribute);
        let place = known.and_then(|a| Some((a, a.groups.iter().position(|name| *name == group)?)));
        let Some((a, place)) = place else { return Default::default() };
        let mine = (0..a.values.len()).filter(|&i| usize::try_from(a.values[i]) == Ok(place));
        mine.map(|i| (self.predictions.probability[i], self.predictions.label[i])).unzip()
    }

    /// Reads a folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let path = at(super::METRICS);
        let metrics: Metrics =
            read_json(&path)?.ok_or_else(|| Error::file(&path, "this file is missing: there is nothing to report"))?;
        let predictions = Predictions::read(&at("predictions.csv"))?;
        let (samples, positives) = (predictions.label.len(), predictions.label.iter().filter(|&&y| y == 1).count());
        if (samples, positives) != (metrics.samples, metrics.positives) {
            let told = format!("{} samples, of which {} are positive", metrics.samples, metrics.positives);
            return Err(Error::file(
                at("predictions.csv"),
                format!("must be what metrics.json was measured on, {told}, but has {samples} and {positives}"),
            ));
        }
        let settings = if metrics.settings.is_null() {
            read_json(&at("settings.json"))?.unwrap_or(Value::Null)
        } else {
            metrics.settings.clone()
        };
        let whole = std::fs::canonicalize(folder).map_err(|e| Error::file(folder, e))?;
        Ok(Self {
            folder: whole.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned()),
            metrics,
            predictions,
            routing: read_json(&at("routing.json"))?,
            epochs: read_lines(&at("log.jsonl"))?,
            start: read_json(&at("start.json"))?,
            settings,
            made: made(&whole),
        })
    }
}

/// A file's text; none if there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(path, e)),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    read(path)?.map(|text| serde_json::from_str(&text).map_err(|e| Error::file(path, e))).transpose()
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read(path)?.unwrap_or_default();
    let line =
        |(n, line): (usize, &str)| serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}: {e}", n + 1)));
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

/// What the run's own description, in one of the folders above, says of data that it made for itself.
fn made(folder: &Path) -> Option<Value> {
    let configs = folder.ancestors().skip(1).take(2).map(|above: &Path| -> PathBuf { above.join("config.json") });
    let config = configs.filter_map(|path| std::fs::read_to_string(path).ok()).next()?;
    serde_json::from_str::<Value>(&config).ok()?.get("data")?.get("made").cloned()
}
