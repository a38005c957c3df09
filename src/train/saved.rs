//! Models in files.

use super::settings::Settings;
use super::texts::Vocabulary;
use crate::error::{Error, Result};
use crate::model::{Clip, ClipConfig, Mixtures, Preset, Weights, read_tensors, write_tensors};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What a model is, beside its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The sizes of its towers.
    pub clip: ClipConfig,
    /// Its mixtures; none in a plain CLIP.
    pub fair: Option<Fair>,
}

/// Which mixtures a Fair-MoE has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fair {
    /// Whose.
    pub preset: Preset,
    /// The attribute whose groups they were trained to treat alike.
    pub attribute: String,
    /// How many groups that has: as many experts has a feature mixture.
    pub groups: usize,
}

/// A model with its vocabulary.
pub struct SavedModel {
    /// What it is.
    pub card: Card,
    /// The model.
    pub clip: Clip,
    /// The tokens that it knows.
    pub(super) vocabulary: Vocabulary,
}

/// Stands in files for [`Vocabulary`]: CLIP's token ids, one for each row of the token table.
const TOKENS: &str = "text_model.embeddings.token_ids";

impl Card {
    fn mixtures(&self) -> Option<Mixtures> {
        self.fair.as_ref().map(|fair| Mixtures::preset(fair.preset, &self.clip, fair.groups))
    }
}

impl SavedModel {
    /// A fresh model of these settings.
    ///
    /// # Errors
    /// When the settings are out of range.
    pub(super) fn fresh(settings: &Settings, vocabulary: Vocabulary, fair: bool) -> Result<Self> {
        let (_, groups) = settings.attribute()?;
        let fair = fair.then(|| Fair { preset: settings.preset, attribute: settings.attribute.clone(), groups });
        let card = Card { clip: ClipConfig::tiny(vocabulary.context(), vocabulary.ids().len()), fair };
        let mixtures = card.mixtures();
        let weights = Weights::init(&card.clip, mixtures.as_ref(), DType::F32, settings.seed)?;
        let clip = Clip::new(card.clip, mixtures.as_ref(), weights)?;
        Ok(Self { card, clip, vocabulary })
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
        let mixtures = card.mixtures();
        let weights = Weights::import(&card.clip, mixtures.as_ref(), DType::F32, &tensors).map_err(|e| bad(&e))?;
        let clip = Clip::new(card.clip, mixtures.as_ref(), weights)?;
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
