//! Models in files.

use super::settings::{Arch, Precision, Preset, Settings};
use super::texts::Vocabulary;
use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Clip, ClipConfig, LoadReport, Weights, read_tensors, write_tensors};
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What a model is, beside its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The sizes of its towers.
    pub clip: ClipConfig,
    /// The settings that it was trained with, which decide its mixtures.
    pub settings: Settings,
}

/// A model with its vocabulary.
pub struct SavedModel {
    /// What it is.
    pub card: Card,
    /// The model.
    pub clip: Clip,
    /// The tokens that it knows.
    pub(crate) vocabulary: Vocabulary,
}

/// Stands in files for [`Vocabulary`]: CLIP's token ids, one for each row of the token table. Without it the rows are the ids.
const TOKENS: &str = "text_model.embeddings.token_ids";

/// The text beside a model's tensors: its card, and what a training goes on from.
fn describe<S: DeserializeOwned>(text: &str) -> serde_json::Result<(Card, Option<S>)> {
    serde_json::from_str(text)
}

fn vocabulary(clip: &ClipConfig, ids: Option<&Tensor>) -> Result<Vocabulary> {
    let ids = match ids {
        None => (0..clip.vocabulary as u32).collect(),
        Some(ids) if ids.dims() == [clip.vocabulary] => ids.to_vec1()?,
        Some(_) => return Err(Error::Refused(format!("the tensor {TOKENS} must have {} ids", clip.vocabulary))),
    };
    Ok(Vocabulary::new(ids, clip.context))
}

impl Card {
    /// Of a file that others saved.
    fn foreign(file: &Checkpoint) -> Result<Self> {
        let clip = file.config()?;
        let arch = match clip.vision.width {
            _ if clip.image != ClipConfig::vit_b16().image => Arch::Tiny,
            width if width == ClipConfig::vit_l14().vision.width => Arch::VitL14,
            _ => Arch::VitB16,
        };
        let rows = |name: &str| file.shape(name).and_then(|shape| shape.first().copied());
        let Some(groups) = rows("text_feature_moe.gate.fc2.weight") else {
            return Ok(Self { clip, settings: Settings::of(Preset::Clip, arch) });
        };
        let mut settings = Settings::of(Preset::Authors, arch);
        let attribute = ATTRIBUTES.iter().zip(GROUP_NAMES).find(|(_, names)| names.len() == groups);
        let why = || Error::Refused(format!("its feature mixtures have {groups} experts, but no attribute has so many groups"));
        settings.attributes[0].name = attribute.ok_or_else(why)?.0.to_string();
        let last = clip.text.layers.saturating_sub(1);
        if let Some(experts) = rows(&format!("text_model.encoder.layers.{last}.mlp.gate.fc2.weight")) {
            settings.model.token_experts = experts;
        }
        Ok(Self { clip, settings })
    }

    /// A model of these parameters.
    fn build(&self, weights: Weights) -> Result<Clip> {
        let clip = Clip::new(self.clip, self.settings.mixtures(&self.clip)?.as_ref(), weights)?;
        Ok(match self.settings.training.precision {
            Precision::F32 => clip,
            Precision::Bf16 => clip.computing(DType::BF16),
        })
    }
}

impl SavedModel {
    /// The model that these settings start from; and, where that is a file's, what was found in it.
    ///
    /// # Errors
    /// When the settings are out of range, or their file of weights cannot be read or is that of another model.
    pub(super) fn start(settings: &Settings, vocabulary: Vocabulary) -> Result<(Self, Option<LoadReport>)> {
        let mut card = Card { clip: settings.clip(&vocabulary), settings: settings.clone() };
        let (mixtures, seed) = (settings.mixtures(&card.clip)?, settings.training.seed);
        let (weights, report) = match &settings.model.weights {
            None => (Weights::init(&card.clip, mixtures.as_ref(), DType::F32, seed)?, None),
            Some(path) => {
                let file = Self::weights(settings, path, &vocabulary)?;
                card.clip.hidden_act = file.config()?.hidden_act;
                let from = settings.model.experts_from;
                let (weights, report) = Weights::from_checkpoint(&card.clip, mixtures.as_ref(), DType::F32, &file, from, seed)?;
                (weights, Some(report))
            }
        };
        let clip = card.build(weights)?;
        Ok((Self { card, clip, vocabulary }, report))
    }

    /// The file of weights that a model of these settings and this vocabulary can start from.
    ///
    /// # Errors
    /// When it cannot be read, or is that of a model of another size or with other tokens.
    pub(super) fn weights(settings: &Settings, path: &Path, own: &Vocabulary) -> Result<Checkpoint> {
        let file = Checkpoint::open(path)?;
        let (theirs, ours) = (file.config()?, settings.clip(own));
        let widths = |clip: &ClipConfig| [clip.vision.width, clip.text.width];
        if widths(&theirs) != widths(&ours) {
            let why = format!("its towers' widths are {:?}, but those of this size {:?}", widths(&theirs), widths(&ours));
            return Err(Error::file(path, why));
        }
        let ids = file.shape(TOKENS).map(|_| file.tensor(TOKENS)).transpose()?;
        if vocabulary(&theirs, ids.as_ref())? != *own {
            return Err(Error::file(
                path,
                "this model knows other tokens than those of these notes, or reads fewer or more of them",
            ));
        }
        Ok(file)
    }

    /// Reads a model, a checkpoint of its training, or what others saved (see [`Checkpoint`]).
    ///
    /// # Errors
    /// As [`SavedModel::open`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::open(path).map(|(model, _)| model)
    }

    /// [`SavedModel::load`]; and what was found in the file. What others saved is a plain CLIP, or Fair-MoE as its authors have it.
    ///
    /// # Errors
    /// When the file cannot be read, or does not hold the whole model.
    pub fn open(path: &Path) -> Result<(Self, LoadReport)> {
        let bad = |why: &dyn std::fmt::Display| Error::file(path, format!("this file holds no model: {why}"));
        let file = Checkpoint::open(path)?;
        let card =
            if file.text().is_empty() { Card::foreign(&file)? } else { describe::<Value>(file.text()).map_err(|e| bad(&e))?.0 };
        let mixtures = card.settings.mixtures(&card.clip)?;
        let (weights, report) = Weights::whole(&card.clip, mixtures.as_ref(), DType::F32, &file)?;
        let ids = file.shape(TOKENS).map(|_| file.tensor(TOKENS)).transpose()?;
        let vocabulary = vocabulary(&card.clip, ids.as_ref()).map_err(|e| bad(&e))?;
        let clip = card.build(weights)?;
        Ok((Self { card, clip, vocabulary }, report))
    }

    /// A checkpoint of a training: the model, the file's other tensors, and what stands beside the card.
    pub(super) fn with_state<S: DeserializeOwned>(path: &Path) -> Result<(Self, BTreeMap<String, Tensor>, Option<S>)> {
        let (tensors, text) = read_tensors(path)?;
        let bad = |why: &dyn std::fmt::Display| Error::file(path, format!("this file holds no model of ours: {why}"));
        let (card, state) = describe(&text).map_err(|e| bad(&e))?;
        let vocabulary = vocabulary(&card.clip, tensors.get(TOKENS)).map_err(|e| bad(&e))?;
        let mixtures = card.settings.mixtures(&card.clip)?;
        let weights = Weights::import(&card.clip, mixtures.as_ref(), DType::F32, &tensors).map_err(|e| bad(&e))?;
        let clip = card.build(weights)?;
        Ok((Self { card, clip, vocabulary }, tensors, state))
    }

    /// The same model on that device, where it then computes.
    ///
    /// # Errors
    /// As [`Clip::on`].
    pub fn on(self, device: &Device) -> Result<Self> {
        Ok(Self { clip: self.clip.on(device)?, ..self })
    }

    /// Writes the model under Hugging Face's names.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.save::<()>(path, BTreeMap::new(), None)
    }

    /// Writes the model, or, with `state` and `others`, a checkpoint; whole or not at all.
    pub(super) fn save<S: Serialize>(&self, path: &Path, others: BTreeMap<String, Tensor>, state: Option<S>) -> Result<()> {
        let mut tensors = self.clip.weights().export(|_, var| Ok(var.as_detached_tensor().to_device(&Device::Cpu)?))?;
        tensors.extend(others);
        let ids = self.vocabulary.ids();
        if ids.iter().enumerate().any(|(row, &id)| row as u32 != id) {
            tensors.insert(TOKENS.into(), Tensor::from_slice(ids, ids.len(), &Device::Cpu)?);
        }
        let text = serde_json::to_string(&(&self.card, state)).map_err(|e| Error::file(path, e))?;
        write_tensors(path, &tensors, text)
    }
}
