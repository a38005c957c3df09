//! The published linear probe: how well a head tells glaucoma from frozen features.

use super::BATCH;
use super::head::{Head, HeadConfig};
use super::measure::{About, left_out, record, settings};
use super::predictions::Predictions;
use crate::data::{DataSet, Split, truncate_note_to};
use crate::error::{Error, Result};
use crate::metrics::{self, Metrics};
use crate::model::Encoded;
use crate::train::{Examples, SavedModel, View};
use candle_core::{DType, Device, Tensor};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a linear probe reads of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// The image's projected features, before they are made of length 1.
    Image,
    /// These, and behind them those of its note, cut at 170 characters; a sample without a note has an empty one.
    ImageText,
}

/// A linear probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearProbe {
    /// What the head reads.
    pub features: Features,
    /// How the head is fitted.
    pub head: HeadConfig,
    /// Decides the head's first weights, and the order of samples.
    pub seed: u64,
}

/// The most characters of a note that the probe reads.
const LONGEST: usize = 170;

/// The head is compared with its best so far after so many epochs, and after the last.
const EVERY: usize = 10;

impl LinearProbe {
    /// Fits a head to a model's features of the training split, selects its epoch by validation AUC (the first of equals), measures it on
    /// the test split, and writes `metrics.json` and `predictions.csv` to the folder `out`.
    ///
    /// Each image is encoded once, on `device`, as zero-shot prediction sees it: no augmentation. The head is fitted on the CPU.
    ///
    /// # Errors
    /// When the model or the data cannot be read, a setting is out of range, or the folder cannot be written.
    pub fn run(&self, checkpoint: &Path, data: &Path, out: &Path, device: &Device) -> Result<Metrics> {
        self.head.check()?;
        let model = SavedModel::load(checkpoint)?.on(device)?;
        let mut data = DataSet::open(data)?;
        let mut load =
            |split: Split| Known::of(self.features, &model, Examples::load(&mut data, split, model.card.clip.image, None)?);
        let [training, validation, test] = [load(Split::Training)?, load(Split::Validation)?, load(Split::Test)?];
        std::fs::create_dir_all(out).map_err(|e| Error::file(out, e))?;
        let (epoch, head) = self.select(&training, &validation)?;
        let left_out = left_out(&validation.examples, &test.examples);
        let [validation, test] = [validation, test].map(|known| Predictions {
            probability: head.probabilities(&known.features),
            ..Predictions::of(&known.examples.samples, vec![])
        });
        let how = serde_json::json!({ "model": settings(&model.card.settings)?, "linear_probe": settings(self)?, "selected_epoch": epoch });
        record(&test, &validation, About { left_out, settings: how, routing: None }, out)
    }

    /// The head of the epoch, counted from 1, with the highest validation AUC.
    fn select(&self, training: &Known, validation: &Known) -> Result<(usize, Head)> {
        let (training_label, label) = (training.label(), validation.label());
        let mut best: Option<(f64, usize, Head)> = None;
        let mut order: Vec<usize> = (0..training_label.len()).collect();
        let mut rng = Pcg64::seed_from_u64(self.seed);
        let shuffled = |_| {
            order.shuffle(&mut rng);
            order.clone()
        };
        let compare = |epoch: usize, head: &Head| {
            if (epoch + 1).is_multiple_of(EVERY) || epoch + 1 == self.head.epochs {
                let auc = metrics::evaluate(&head.probabilities(&validation.features), &label, &[])?.auc.unwrap_or(0.0);
                if best.as_ref().is_none_or(|(most, ..)| auc > *most) {
                    best = Some((auc, epoch + 1, head.clone()));
                }
            }
            Ok(())
        };
        Head::new(training.width, self.seed).fit(&training.features, &training_label, &self.head, shuffled, compare)?;
        let (_, epoch, head) = best.ok_or_else(|| Error::Refused("no epoch of the linear probe was measured".into()))?;
        Ok((epoch, head))
    }
}

/// A split, and its features.
struct Known {
    examples: Examples,
    /// `[samples, width]`.
    features: Vec<f32>,
    width: usize,
}

impl Known {
    fn of(features: Features, model: &SavedModel, examples: Examples) -> Result<Self> {
        let (mut all, mut width) = (vec![], 0);
        let clip = model.clip.frozen();
        for views in examples.plain().chunks(BATCH) {
            let image = clip.image(&examples.pixels(views, clip.weights().device())?)?;
            let parts = match features {
                Features::Image => vec![feature(&image)?],
                Features::ImageText => vec![feature(&image)?, feature(&clip.text(&notes(model, &examples, views))?)?],
            };
            let both = Tensor::cat(&parts, 1)?;
            width = both.dim(1)?;
            all.extend(both.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(Self { examples, features: all, width })
    }

    fn label(&self) -> Vec<u8> {
        self.examples.samples.iter().map(|s| s.label).collect()
    }
}

fn feature(encoded: &Encoded) -> Result<Tensor> {
    Ok(encoded.feature.to_dtype(DType::F32)?)
}

/// Notes as the model takes them. A prompt would tell the label.
fn notes(model: &SavedModel, examples: &Examples, views: &[View]) -> Vec<Vec<u32>> {
    let note = |view: &View| examples.samples[view.sample].note.as_deref().unwrap_or_default();
    views.iter().map(|view| model.vocabulary.known(truncate_note_to(note(view), LONGEST))).collect()
}
