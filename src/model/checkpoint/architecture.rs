//! The sizes of a model, from the shapes of its parameters.

use super::Checkpoint;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::model::{ClipConfig, TowerConfig};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Width of an attention head in every CLIP of OpenAI.
const HEAD: usize = 64;

/// What Hugging Face keeps beside the weights, as far as shapes do not tell it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Beside {
    vision_config: BesideTower,
    text_config: BesideTower,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BesideTower {
    hidden_act: Option<String>,
    num_attention_heads: Option<usize>,
}

/// What our own files say of a model first.
#[derive(Deserialize)]
struct Described {
    clip: ClipConfig,
}

impl Checkpoint {
    /// The sizes of the CLIP that it holds. Heads have width 64 and MLPs QuickGELU, as OpenAI's have, unless the `config.json`
    /// beside a file of Hugging Face says otherwise. Our own files say themselves what they are.
    ///
    /// # Errors
    /// When a parameter that tells them is missing or has a shape that no CLIP's has, or that `config.json` cannot be read.
    pub fn config(&self) -> Result<ClipConfig> {
        if let Ok((Described { clip }, _)) = serde_json::from_str::<(Described, IgnoredAny)>(&self.text) {
            clip.check()?;
            return Ok(clip);
        }
        let [vision] = self.sizes("vision_model.embeddings.class_embedding")?;
        let [_, _, patch, _] = self.sizes("vision_model.embeddings.patch_embedding.weight")?;
        let [tokens, _] = self.sizes("vision_model.embeddings.position_embedding.weight")?;
        let [vocabulary, _] = self.sizes("text_model.embeddings.token_embedding.weight")?;
        let [context, text] = self.sizes("text_model.embeddings.position_embedding.weight")?;
        let [embed, _] = self.sizes("visual_projection.weight")?;
        let side = tokens.saturating_sub(1).isqrt();
        if side * side + 1 != tokens {
            let why = format!("an image has one token more than a square number of patches, but here it has {tokens}");
            return Err(Error::file(&self.path, why));
        }
        let beside = self.beside()?;
        let config = ClipConfig {
            image: side.saturating_mul(patch),
            patch,
            vision: self.tower("vision_model", vision, &beside.vision_config)?,
            context,
            vocabulary,
            text: self.tower("text_model", text, &beside.text_config)?,
            embed,
            hidden_act: self.hidden_act(&beside)?,
        };
        config.check().map_err(|e| Error::file(&self.path, e))?;
        Ok(config)
    }

    fn tower(&self, tower: &str, width: usize, beside: &BesideTower) -> Result<TowerConfig> {
        let heads = match beside.num_attention_heads {
            Some(heads) => heads,
            None if width > 0 && width.is_multiple_of(HEAD) => width / HEAD,
            None => {
                let why = format!("the width of {tower} must be a multiple of {HEAD}, a head's, but is {width}");
                return Err(Error::file(&self.path, why));
            }
        };
        let norm = |layer: &usize| format!("{tower}.encoder.layers.{layer}.layer_norm1.weight");
        let layers = (0..).take_while(|layer| self.arranged.entries.contains_key(&norm(layer))).count();
        Ok(TowerConfig { width, layers, heads })
    }

    fn hidden_act(&self, beside: &Beside) -> Result<Activation> {
        let [vision, text] = [&beside.vision_config, &beside.text_config].map(|tower| match &tower.hidden_act {
            Some(name) => name.parse().map_err(|e| Error::file(self.config_path(), e)),
            None => Ok(Activation::QuickGelu),
        });
        let (vision, text): (Activation, Activation) = (vision?, text?);
        if vision != text {
            return Err(Error::file(
                self.config_path(),
                format!("both towers must have one activation, but have {vision} and {text}"),
            ));
        }
        Ok(vision)
    }

    fn config_path(&self) -> PathBuf {
        self.path.with_file_name("config.json")
    }

    /// What stands beside the weights; nothing, where they are not Hugging Face's.
    fn beside(&self) -> Result<Beside> {
        /// Far more than any has.
        const LARGEST: u64 = 1 << 20;
        let path = self.config_path();
        let keys = self.arranged.entries.get("vision_model.embeddings.class_embedding").map_or(&[][..], |entry| &entry.keys);
        let is_foreign = keys.iter().all(|key| key.starts_with("visual.")) || !self.text.is_empty();
        if is_foreign || !path.is_file() {
            return Ok(Beside::default());
        }
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
        read.map_err(|e| Error::file(&path, e))?;
        serde_json::from_str(&text).map_err(|e| Error::file(&path, e))
    }

    fn sizes<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let missing = || Error::file(&self.path, format!("this file holds no CLIP: {name} is missing"));
        let shape = self.shape(name).ok_or_else(missing)?;
        let why = |shape| Error::file(&self.path, format!("{name} must have {N} dimensions, but has the shape {shape:?}"));
        shape.try_into().map_err(why)
    }
}
