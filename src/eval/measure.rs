//! From a model to its figures.

use super::predictions::Predictions;
use super::routing::Watch;
use super::zero_shot::probabilities;
use crate::data::{DataSet, Split};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::metrics::{self, Bootstrap, Metrics};
use crate::train::{Examples, SavedModel};
use candle_core::Device;
use serde::Serialize;
use std::path::Path;

/// Measures a saved model on the test split of a data set, with thresholds chosen on its validation split, and writes `metrics.json`,
/// `predictions.csv`, and of a model with mixtures `routing.json`, to the folder `out`. The model computes on `device`.
///
/// # Errors
/// When the model or the data cannot be read, or the folder cannot be written.
pub fn evaluate(checkpoint: &Path, data: &Path, out: &Path, device: &Device) -> Result<Metrics> {
    let model = SavedModel::load(checkpoint)?.on(device)?;
    let mut data = DataSet::open(data)?;
    let mut load = |split: Split| Examples::load(&mut data, split, model.card.clip.image, None);
    let (validation, test) = (load(Split::Validation)?, load(Split::Test)?);
    std::fs::create_dir_all(out).map_err(|e| Error::file(out, e))?;
    measure(&model, &validation, &test, out)
}

/// Predicts, measures, and writes everything down.
pub(crate) fn measure(model: &SavedModel, validation: &Examples, test: &Examples, out: &Path) -> Result<Metrics> {
    let mut watch = Watch::new(model);
    let said = probabilities(model, test, |views, images| watch.images(test, views, images))?;
    watch.texts(model, test)?;
    let test = Predictions::of(&test.samples, said);
    let validation = Predictions::of(&validation.samples, probabilities(model, validation, |_, _| Ok(()))?);
    if let Some(routing) = watch.routing() {
        write_json(&out.join("routing.json"), &routing)?;
    }
    record(&test, &validation, settings(&model.card.settings)?, out)
}

/// Measures predictions, and writes them and their figures down.
pub(super) fn record(test: &Predictions, validation: &Predictions, settings: serde_json::Value, out: &Path) -> Result<Metrics> {
    let (a, b) = (test.attributes(), validation.attributes());
    let found = metrics::audit(&test.answers(&a), Some(&validation.answers(&b)), &Bootstrap::default())?;
    let metrics = Metrics { settings, ..found };
    test.write(&out.join("predictions.csv"))?;
    write_json(&out.join("metrics.json"), &metrics)?;
    Ok(metrics)
}

/// How a model fares on a split: the published figures alone, in memory.
pub(crate) fn validate(model: &SavedModel, split: &Examples) -> Result<Metrics> {
    let said = Predictions::of(&split.samples, probabilities(model, split, |_, _| Ok(()))?);
    metrics::evaluate(&said.probability, &said.label, &said.attributes())
}

/// Settings as outputs hold them.
pub(super) fn settings(settings: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(settings).map_err(|e| Error::Refused(format!("the settings cannot be written: {e}")))
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomically(path, |file| writeln!(file, "{text}"))
}
