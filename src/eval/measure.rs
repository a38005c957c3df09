//! From a model to its figures.

use super::predictions::Predictions;
use super::routing::{Routing, Watch};
use super::zero_shot::probabilities;
use crate::data::{DataSet, Split};
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::metrics::{self, Bootstrap, Metrics};
use crate::train::{Examples, SavedModel};
use candle_core::Device;
use serde::Serialize;
use std::collections::BTreeMap;
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
    let left_out = left_out(validation, test);
    let test = Predictions::of(&test.samples, said);
    let validation = Predictions::of(&validation.samples, probabilities(model, validation, |_, _| Ok(()))?);
    let about = About { left_out, settings: settings(&model.card.settings)?, routing: watch.routing() };
    record(&test, &validation, about, out)
}

/// What is written down beside predictions and their figures.
pub(super) struct About {
    pub left_out: BTreeMap<String, usize>,
    pub settings: serde_json::Value,
    /// None of a plain CLIP, or where nothing asked the mixtures.
    pub routing: Option<Routing>,
}

/// How many samples of unknown attributes the two splits are without.
pub(super) fn left_out(validation: &Examples, test: &Examples) -> BTreeMap<String, usize> {
    [(Split::Validation, validation), (Split::Test, test)].map(|(split, own)| (split.to_string(), own.left_out)).into()
}

/// Measures predictions, and writes them and their figures down. A `routing.json` of another model does not stay.
pub(super) fn record(test: &Predictions, validation: &Predictions, about: About, out: &Path) -> Result<Metrics> {
    let (a, b) = (test.attributes(), validation.attributes());
    let found = metrics::audit(&test.answers(&a), Some(&validation.answers(&b)), &Bootstrap::default())?;
    let metrics = Metrics { settings: about.settings, left_out: about.left_out, ..found };
    let path = out.join("routing.json");
    match about.routing {
        Some(routing) => write_json(&path, &routing)?,
        None if path.exists() => std::fs::remove_file(&path).map_err(|e| Error::file(&path, e))?,
        None => {}
    }
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
