//! The training of one model.

use super::adam::Adam;
use super::cost::Clock;
use super::examples::{Examples, View};
use super::folder::Folder;
use super::groups::GroupLoader;
use super::log::{Epoch, State};
use super::objective::{Loss, Objective, StepGroups, Terms};
use super::saved::SavedModel;
use super::settings::{Arch, GroupSource, SelectBy, SelectSplit, Settings};
use super::start::Start;
use super::texts::{Vocabulary, long_notes};
use crate::error::{Error, Result};
use crate::eval::validate;
use crate::files::{write_atomically, write_json};
use crate::model::{Clip, ClipOutput};
use candle_core::Device;
use indicatif::ProgressBar;
use std::collections::BTreeMap;

/// The data that all models of a run share.
pub(super) struct Data {
    pub training: Examples,
    pub validation: Examples,
    pub test: Examples,
    pub vocabulary: Vocabulary,
    /// How many training notes lose their end.
    cut: usize,
    /// A hash of what all samples say but for their pixels.
    digest: String,
}

impl Data {
    pub fn new(arch: Arch, training: Examples, validation: Examples, test: Examples) -> Result<Self> {
        let vocabulary = Vocabulary::on(arch, &training.samples);
        let cut = long_notes(&training.samples);
        let splits = [&training, &validation, &test]
            .map(|split| split.samples.iter().map(|s| (&s.file, s.label, s.groups, &s.note)).collect::<Vec<_>>());
        let text = serde_json::to_vec(&splits).map_err(|e| Error::Refused(format!("samples that are no JSON: {e}")))?;
        let digest = blake3::hash(&text).to_string();
        Ok(Self { training, validation, test, vocabulary, cut, digest })
    }
}

/// One model on its way.
struct Trainer<'a> {
    settings: &'a Settings,
    data: &'a Data,
    folder: &'a Folder,
    objective: Objective,
    /// Those of each attribute's groups; none where groups are in the batch itself.
    loaders: Option<Vec<Vec<GroupLoader>>>,
    model: SavedModel,
    adam: Adam,
    state: State,
    clock: &'a Clock,
}

/// Trains a model in `folder` on that device, from where its checkpoint stands or from its start; returns the selected model.
pub(super) fn train(
    settings: &Settings,
    data: &Data,
    folder: &Folder,
    clock: &Clock,
    bar: &ProgressBar,
    device: &Device,
) -> Result<SavedModel> {
    let mut trainer = Trainer::start(settings, data, folder, clock, device)?;
    let steps = trainer.steps();
    let total = steps * settings.training.epochs as u64;
    bar.set_length(total);
    bar.set_position(trainer.state.steps);
    for epoch in trainer.state.log.len()..settings.training.epochs {
        let views = data.training.shuffled(&settings.data, settings.training.seed, epoch);
        let done = trainer.state.running.steps;
        for views in views.chunks(settings.training.batch).take(steps as usize).skip(done) {
            let terms = trainer.step(views, total, bar)?;
            bar.set_message(format!("epoch {} of {}  {}", epoch + 1, settings.training.epochs, describe(&terms)));
            bar.inc(1);
            let every = settings.training.checkpoint_steps;
            if every > 0 && trainer.state.running.steps.is_multiple_of(every) {
                trainer.checkpoint()?;
            }
        }
        trainer.finish_epoch(epoch + 1)?;
    }
    bar.finish();
    drop(trainer);
    SavedModel::load(&folder.model())?.on(device)
}

impl<'a> Trainer<'a> {
    /// From the last checkpoint, or from the start.
    fn start(settings: &'a Settings, data: &'a Data, folder: &'a Folder, clock: &'a Clock, device: &Device) -> Result<Self> {
        write_json(&folder.settings(), settings)?;
        let path = folder.checkpoint();
        let new = |model: &SavedModel| Adam::new(settings.training.adam, &settings.training.trainable, model.clip.weights());
        let (model, adam, state) = if path.exists() {
            let (model, tensors, state) = SavedModel::with_state::<State>(&path)?;
            let state = state.ok_or_else(|| Error::file(&path, "this is a model, but not a checkpoint of its training"))?;
            if state.data != data.digest || model.vocabulary != data.vocabulary {
                return Err(Error::file(
                    &path,
                    "the data's files, labels, attributes or notes are no longer those of this training",
                ));
            }
            let model = model.on(device)?;
            let mut adam = new(&model)?;
            adam.import(&tensors, state.steps)?;
            (model, adam, state)
        } else {
            let (model, report) = SavedModel::start(settings, data.vocabulary.clone())?;
            report.map_or(Ok(()), |report| write_json(&folder.weights(), &report))?;
            let model = model.on(device)?;
            let adam = new(&model)?;
            (model, adam, State { data: data.digest.clone(), ..State::default() })
        };
        let separate = settings.loss.reads_groups() && settings.data.groups == GroupSource::Separate;
        let loaders = separate.then(|| GroupLoader::all(settings, &data.training.samples)).transpose()?;
        let objective = Objective::new(settings, &settings.loss)?;
        Ok(Self { settings, data, folder, objective, loaders, model, adam, state, clock })
    }

    /// Steps in an epoch.
    fn steps(&self) -> u64 {
        self.settings.steps(self.data.training.samples.len())
    }

    fn step(&mut self, views: &[View], total: u64, bar: &ProgressBar) -> Result<Terms> {
        let out = self.forward(&self.model.clip, views)?;
        let places = self.settings.places()?;
        let ids: Vec<Vec<i64>> = places.iter().map(|(place, _)| self.data.training.groups(views, *place)).collect();
        let groups = self.groups(&ids)?;
        let loss = self.objective.of(&out, &ids, &groups)?;
        if !loss.terms.total.is_finite() {
            return Err(Error::Refused(format!("the loss became {}: try a lower learning rate", loss.terms.total)));
        }
        if self.state.steps == 0 {
            let mut start = Start::of(self.settings, &self.model, &out, &ids, &groups, &loss)?;
            if self.data.cut > 0 {
                start.warnings.push(format!("{} training notes have more than 77 tokens and lose their end", self.data.cut));
            }
            write_json(&self.folder.start(), &start)?;
            bar.suspend(|| eprint!("{}\n{start}", self.folder.path().display()));
        }
        let rate = self.settings.training.rate_at(self.state.steps, total);
        let Loss { total, terms, .. } = &loss;
        self.adam.step(self.model.clip.weights(), &total.backward()?, rate)?;
        self.state.steps = self.adam.steps();
        self.state.running.add(&loss);
        Ok(*terms)
    }

    fn forward(&self, clip: &Clip, views: &[View]) -> Result<ClipOutput> {
        let Data { training, vocabulary, .. } = self.data;
        Ok(clip.forward(&training.pixels(views, clip.weights().device())?, &training.texts(views, vocabulary)?)?)
    }

    /// Where this step's groups are.
    fn groups(&self, ids: &[Vec<i64>]) -> Result<StepGroups> {
        let Some(loaders) = &self.loaders else { return Ok(StepGroups::Ids(ids.to_vec())) };
        let clip = if self.settings.loss.group_gradient { self.model.clip.clone() } else { self.model.clip.frozen() };
        let one = |loader: &GroupLoader| self.forward(&clip, &loader.batch(self.state.steps));
        let of_attribute = |loaders: &Vec<GroupLoader>| loaders.iter().map(one).collect();
        loaders.iter().map(of_attribute).collect::<Result<_>>().map(StepGroups::Separate)
    }

    /// Measures the model, keeps it if it is the best so far, and notes the epoch.
    fn finish_epoch(&mut self, number: usize) -> Result<()> {
        let mut epoch: Epoch = std::mem::take(&mut self.state.running).epoch(number);
        let attributes: Vec<&str> = self.settings.attributes.iter().map(|a| a.name.as_str()).collect();
        let found = validate(&self.model, &self.data.validation)?;
        let es_auc = |found: &crate::metrics::Metrics, name: &str| found.attributes.get(name).and_then(|a| a.es_auc);
        epoch.validation_auc = found.auc;
        epoch.validation_es_auc = attributes.iter().map(|name| ((*name).to_owned(), es_auc(&found, name))).collect();
        let chosen_on = match self.settings.training.select_split {
            SelectSplit::Val => found,
            SelectSplit::Test => validate(&self.model, &self.data.test)?,
        };
        epoch.selection = match self.settings.training.select_by {
            SelectBy::Auc => chosen_on.auc,
            SelectBy::EsAuc => {
                let all: Option<Vec<f64>> = attributes.iter().map(|name| es_auc(&chosen_on, name)).collect();
                all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
            }
        };
        // In this order a kill between two writes loses nothing: what follows the checkpoint is done again, and gives the same.
        // A figure that cannot be told never replaces one that can.
        if epoch.selection >= self.state.best() {
            self.model.save(&self.folder.model(), BTreeMap::new(), None::<State>)?;
        }
        self.state.log.push(epoch);
        let lines: std::result::Result<Vec<String>, _> = self.state.log.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(|e| Error::file(self.folder.log(), e))?;
        write_atomically(&self.folder.log(), |file| lines.iter().try_for_each(|line| writeln!(file, "{line}")))?;
        self.checkpoint()
    }

    fn checkpoint(&self) -> Result<()> {
        self.model.save(&self.folder.checkpoint(), self.adam.export()?, Some(&self.state))?;
        self.clock.save().map(drop)
    }
}

/// The terms of a loss that are not 0.
fn describe(terms: &Terms) -> String {
    let Terms { clip, distance, dispersion, batch_variance, gate_ce, .. } = *terms;
    let all = [
        ("clip", clip),
        ("distance", distance),
        ("dispersion", dispersion),
        ("batch variance", batch_variance),
        ("gate ce", gate_ce),
    ];
    let shown = all.iter().filter(|(_, value)| *value != 0.0).map(|(name, value)| format!("{name} {value:.3e}"));
    shown.collect::<Vec<_>>().join("  ")
}
