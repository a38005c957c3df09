//! Models in files.

use super::settings::{Precision, Settings};
use super::texts::Vocabulary;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Clip, ClipConfig, LoadReport, Weights, read_tensors, write_tensors};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
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

/// Stands in files for [`Vocabulary`]: CLIP's token ids, one for each row of the token table.
const TOKENS: &str = "text_model.embeddings.token_ids";

impl Card {
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
                let file = Checkpoint::open(path)?;
                card.clip.hidden_act = file.config()?.hidden_act;
                let from = settings.model.experts_from;
                let (weights, report) = Weights::from_checkpoint(&card.clip, mixtures.as_ref(), DType::F32, &file, from, seed)?;
                (weights, Some(report))
            }
        };
        let clip = card.build(weights)?;
        Ok((Self { card, clip, vocabulary }, report))
    }

    /// Reads a model, or a checkpoint of its training.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no such model.
    pub fn load(path: &Path) -> Result<Self> {
        Self::with_state::<serde_json::Value>(path).map(|(model, _, _)| model)
    }

    /// [`SavedModel::load`]; and the file's other tensors, and what stands beside the card, if it is a checkpoint.
    pub(super) fn with_state<S: serde::de::DeserializeOwned>(path: &Path) -> Result<(Self, BTreeMap<String, Tensor>, Option<S>)> {
        let (tensors, text) = read_tensors(path)?;
        let bad = |why: &dyn std::fmt::Display| Error::file(path, format!("this file holds no model of ours: {why}"));
        let (card, state): (Card, Option<S>) = serde_json::from_str(&text).map_err(|e| bad(&e))?;
        let ids: Vec<u32> = match tensors.get(TOKENS) {
            Some(ids) if ids.dims() == [card.clip.vocabulary] => ids.to_vec1().map_err(|e| bad(&e))?,
            _ => return Err(bad(&format_args!("the tensor {TOKENS} is missing or has another size"))),
        };
        let mixtures = card.settings.mixtures(&card.clip)?;
        let weights = Weights::import(&card.clip, mixtures.as_ref(), DType::F32, &tensors).map_err(|e| bad(&e))?;
        let clip = card.build(weights)?;
        let vocabulary = Vocabulary::new(ids, card.clip.context);
        Ok((Self { card, clip, vocabulary }, tensors, state))
    }

    /// Writes the model, or, with `state` and `others`, a checkpoint; whole or not at all.
    pub(super) fn save<S: Serialize>(&self, path: &Path, others: BTreeMap<String, Tensor>, state: Option<S>) -> Result<()> {
        let mut tensors = self.clip.weights().export(|_, var| Ok(var.as_detached_tensor()))?;
        tensors.extend(others);
        let ids = self.vocabulary.ids();
        tensors.insert(TOKENS.into(), Tensor::from_slice(ids, ids.len(), &Device::Cpu)?);
        let text = serde_json::to_string(&(&self.card, state)).map_err(|e| Error::file(path, e))?;
        write_tensors(path, &tensors, text)
    }
}
