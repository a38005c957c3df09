//! Zero-shot evaluation: which of the two prompts is an image closer to?

use super::examples::Examples;
use super::saved::SavedModel;
use super::texts::PROMPTS;
use crate::data::{ATTRIBUTES, DataSet, GROUP_NAMES, Sample, Split};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::metrics::{self, Attribute, Metrics};
use candle_core::DType;
use std::path::Path;

/// Images encoded at a time.
const BATCH: usize = 64;

/// Measures a saved model on the test split of a data set, and writes `metrics.json` and `predictions.csv` to the folder `out`.
///
/// # Errors
/// When the model or the data cannot be read, or the folder cannot be written.
pub fn evaluate(checkpoint: &Path, data: &Path, out: &Path) -> Result<Metrics> {
    let model = SavedModel::load(checkpoint)?;
    let mut data = DataSet::open(data)?;
    let test = Examples::load(&mut data, Split::Test, model.card.clip.image, None)?;
    std::fs::create_dir_all(out).map_err(|e| Error::file(out, e))?;
    measure(&model, &test, out)
}

/// Probability of glaucoma: sigmoid(s1 - s0) of the cosines with the two prompts, without the logit scale, as published.
pub(super) fn probabilities(model: &SavedModel, examples: &Examples) -> Result<Vec<f64>> {
    let prompts = PROMPTS.map(|prompt| model.vocabulary.rows(prompt)).into_iter().collect::<Result<Vec<_>>>()?;
    let clip = model.clip.frozen();
    let prompts = clip.text(&prompts)?.embedding;
    let mut out = Vec::with_capacity(examples.samples.len());
    for views in examples.plain().chunks(BATCH) {
        let images = clip.image(&examples.pixels(views, clip.weights().device())?)?.embedding;
        let cosines = images.matmul(&prompts.t()?)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        out.extend(cosines.iter().map(|s| 1.0 / (1.0 + (s[0] - s[1]).exp())));
    }
    Ok(out)
}

/// Predicts, measures, and writes both down.
pub(super) fn measure(model: &SavedModel, test: &Examples, out: &Path) -> Result<Metrics> {
    let probability = probabilities(model, test)?;
    let metrics = metrics_of(&probability, test)?;
    write_predictions(&out.join("predictions.csv"), &test.samples, &probability)?;
    let path = out.join("metrics.json");
    let text = serde_json::to_string_pretty(&metrics).map_err(|e| Error::file(&path, e))?;
    write_atomically(&path, |file| writeln!(file, "{text}"))?;
    Ok(metrics)
}

/// How the model fares on a split, in memory.
pub(super) fn validate(model: &SavedModel, split: &Examples) -> Result<Metrics> {
    metrics_of(&probabilities(model, split)?, split)
}

fn metrics_of(probability: &[f64], split: &Examples) -> Result<Metrics> {
    let label: Vec<u8> = split.samples.iter().map(|s| s.label).collect();
    let values: Vec<Vec<i8>> = (0..ATTRIBUTES.len()).map(|a| split.samples.iter().map(|s| s.groups[a]).collect()).collect();
    let named = ATTRIBUTES.iter().zip(GROUP_NAMES).zip(&values);
    let attributes: Vec<_> = named.map(|((name, groups), values)| Attribute { name, groups, values }).collect();
    metrics::evaluate(probability, &label, &attributes)
}

fn write_predictions(path: &Path, samples: &[Sample], probability: &[f64]) -> Result<()> {
    write_atomically(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(["file", "label", "probability"].into_iter().chain(ATTRIBUTES))?;
        for (sample, probability) in samples.iter().zip(probability) {
            let groups = sample.groups.iter().map(i8::to_string);
            table.write_record(
                [sample.file.clone(), sample.label.to_string(), probability.to_string()].into_iter().chain(groups),
            )?;
        }
        table.flush()
    })
}
