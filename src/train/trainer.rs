//! The training of one model.

use super::adam::Adam;
use super::evaluate::probabilities;
use super::examples::{Examples, View};
use super::saved::SavedModel;
use super::settings::Settings;
use super::texts::Vocabulary;
use crate::candle::{TensorGroups, fol};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::fol::{Fol, FolConfig, FolTerms};
use crate::metrics;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a model is trained on and with.
pub(super) struct Task<'a> {
    pub settings: &'a Settings,
    pub training: &'a Examples,
    pub validation: &'a Examples,
    pub vocabulary: &'a Vocabulary,
}

/// The files of one model's training.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub fn new(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).map_err(|e| Error::file(&path, e))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The model of the epoch with the highest validation AUC so far, the later of equals.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// Everything that training goes on from: the last epoch's parameters, moments, and what is known of the epochs.
    fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// One line of JSON for each epoch.
    fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }
}

/// How far training has come. It holds no floats: reading them from JSON may change their last bit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    /// What each epoch showed, an [`Epoch`] in JSON.
    log: Vec<String>,
    steps: u64,
    /// The bits of the highest validation AUC so far; those of positive numbers are ordered as the numbers are.
    best_auc: Option<u64>,
}

/// What an epoch showed: means over its steps, and the validation AUC at its end.
#[derive(Clone, Debug, Default, Serialize)]
struct Epoch {
    epoch: usize,
    total: f64,
    clip: f64,
    distance: f64,
    dispersion: f64,
    batch_variance: f64,
    validation_auc: Option<f64>,
}

impl Epoch {
    fn add(&mut self, terms: &FolTerms, share: f64) {
        self.total += share * terms.total;
        self.clip += share * terms.clip;
        self.distance += share * terms.distance;
        self.dispersion += share * terms.dispersion;
        self.batch_variance += share * terms.batch_variance;
    }
}

/// Trains a model, Fair-MoE or plain, in `folder`, from where its checkpoint stands or from scratch; returns the selected model.
pub(super) fn train(task: &Task<'_>, fair: bool, folder: &Folder, bar: &ProgressBar) -> Result<SavedModel> {
    let Task { settings, training, .. } = task;
    let (mut model, mut adam, mut state) = start(task, fair, folder)?;
    let loss = Fol::new(if fair { settings.loss() } else { plain_loss() })?;
    let steps = training.samples.len().div_ceil(settings.batch) as u64;
    let total = steps * settings.epochs as u64;
    bar.set_length(total);
    bar.set_position(adam.steps());
    for epoch in state.log.len()..settings.epochs {
        let views = training.shuffled(settings, epoch);
        let mut mean = Epoch { epoch: epoch + 1, ..Epoch::default() };
        for views in views.chunks(settings.batch) {
            let rate = settings.rate_at(adam.steps(), total);
            let terms = step(task, &mut model, &mut adam, &loss, views, rate)?;
            mean.add(&terms, 1.0 / steps as f64);
            bar.set_message(format!("epoch {} of {}  {}", epoch + 1, settings.epochs, describe(&terms)));
            bar.inc(1);
        }
        mean.validation_auc = validation_auc(task, &model)?;
        state.steps = adam.steps();
        // In this order a kill between two writes loses nothing: the epoch is done again, and gives the same.
        let auc = mean.validation_auc.map(f64::to_bits);
        if auc >= state.best_auc {
            state.best_auc = auc;
            model.save(&folder.model(), BTreeMap::new(), None::<State>)?;
        }
        state.log.push(serde_json::to_string(&mean).map_err(|e| Error::file(folder.log(), e))?);
        write_atomically(&folder.log(), |file| state.log.iter().try_for_each(|line| writeln!(file, "{line}")))?;
        model.save(&folder.checkpoint(), adam.export()?, Some(&state))?;
    }
    bar.finish();
    SavedModel::load(&folder.model())
}

/// The last checkpoint, or a fresh model.
fn start(task: &Task<'_>, fair: bool, folder: &Folder) -> Result<(SavedModel, Adam, State)> {
    let path = folder.checkpoint();
    let config = task.settings.adam;
    if !path.exists() {
        let model = SavedModel::fresh(task.settings, task.vocabulary.clone(), fair)?;
        let adam = Adam::new(config, model.clip.weights());
        return Ok((model, adam, State::default()));
    }
    let (model, tensors, state) = SavedModel::with_state::<State>(&path)?;
    let state = state.ok_or_else(|| Error::file(&path, "this is a model, but not a checkpoint of its training"))?;
    let adam = Adam::import(config, model.clip.weights(), &tensors, state.steps)?;
    Ok((model, adam, state))
}

/// The loss of a plain CLIP: the cross entropy alone.
fn plain_loss() -> FolConfig {
    FolConfig { lambda_distance: 0.0, lambda_dispersion: 0.0, ..FolConfig::paper() }
}

fn step(task: &Task<'_>, model: &mut SavedModel, adam: &mut Adam, loss: &Fol, views: &[View], rate: f64) -> Result<FolTerms> {
    let Task { settings, training, vocabulary, .. } = task;
    let out = model.clip.forward(&training.pixels(views)?, &training.texts(views, vocabulary)?)?;
    let (place, count) = settings.attribute()?;
    let ids: Vec<i64> = views.iter().map(|v| i64::from(training.samples[v.sample].groups[place])).collect();
    // A plain CLIP knows nothing of groups.
    let groups = match model.card.fair {
        Some(_) => TensorGroups::Ids { ids: &ids, count },
        None => TensorGroups::Separate(&[]),
    };
    let found = fol(loss, &out.loss_input(&settings.preset.gates())?, groups)?;
    let terms = found.state()?.terms;
    if !terms.total.is_finite() {
        return Err(Error::Refused(format!("the loss became {}: try a lower learning rate", terms.total)));
    }
    adam.step(model.clip.weights(), &found.total.backward()?, rate)?;
    Ok(terms)
}

fn validation_auc(task: &Task<'_>, model: &SavedModel) -> Result<Option<f64>> {
    let probability = probabilities(model, task.validation)?;
    let label: Vec<u8> = task.validation.samples.iter().map(|s| s.label).collect();
    Ok(metrics::evaluate(&probability, &label, &[])?.auc)
}

/// The terms of a loss that are not 0.
fn describe(terms: &FolTerms) -> String {
    let FolTerms { clip, distance, dispersion, batch_variance, .. } = *terms;
    let all = [("clip", clip), ("distance", distance), ("dispersion", dispersion), ("batch variance", batch_variance)];
    let shown = all.iter().filter(|(_, value)| *value != 0.0).map(|(name, value)| format!("{name} {value:.3e}"));
    shown.collect::<Vec<_>>().join("  ")
}
