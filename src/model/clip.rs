//! The two towers, and what they say of a batch.

use super::config::{ClipConfig, Mixtures, Preset, TowerConfig};
use super::ops::{project, unit};
use super::tower::Tower;
use super::weights::Weights;
use crate::candle::{FolInput, GateTensor, MoeRows, moe};
use crate::moe::{Layout, Moe};
use candle_core::{Device, Result, Tensor, bail};

/// candle spreads an operation of at least so many numbers over threads that spin while they wait, which costs more than it
/// gains where several models train side by side; and what is smaller stays in the cache.
const SMALL: usize = 1 << 16;

/// A CLIP, plain or with Fair-MoE's mixtures.
#[derive(Clone, Debug)]
pub struct Clip {
    config: ClipConfig,
    mixtures: Option<Layers>,
    weights: Weights,
}

/// The four mixtures as layers.
#[derive(Clone, Debug)]
struct Layers {
    vision_token: Moe,
    text_token: Moe,
    vision_feature: Moe,
    text_feature: Moe,
    prune: bool,
}

/// One side of a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// [B, embed], rows of length 1.
    pub embedding: Tensor,
    /// Final weights of the token mixture [B, T, E] and of the feature mixture [1, B, E]; none in a plain CLIP.
    pub gates: Option<[GateTensor; 2]>,
    /// `[B · T]`: true up to and including a text's end token; none for images.
    pub text_rows: Option<Vec<bool>>,
}

/// Both sides of a batch.
#[derive(Clone, Debug)]
pub struct ClipOutput {
    /// The images.
    pub image: Encoded,
    /// The texts.
    pub text: Encoded,
    /// [B, B] cosine of image i and text j.
    pub cosine: Tensor,
    /// What multiplies the cosines to give logits, a scalar.
    pub scale: Tensor,
}

impl Clip {
    /// A model of these parameters; they must have been made for this configuration.
    ///
    /// # Errors
    /// When the configuration is out of range.
    pub fn new(config: ClipConfig, mixtures: Option<&Mixtures>, weights: Weights) -> crate::Result<Self> {
        config.check()?;
        let layers = |m: &Mixtures| {
            let [vision_token, text_token, vision_feature, text_feature] =
                [&m.vision_token, &m.text_token, &m.vision_feature, &m.text_feature].map(|moe| Moe::new(moe.clone()));
            Ok::<_, crate::Error>(Layers {
                vision_token: vision_token?,
                text_token: text_token?,
                vision_feature: vision_feature?,
                text_feature: text_feature?,
                prune: m.prune,
            })
        };
        Ok(Self { config, mixtures: mixtures.map(layers).transpose()?, weights })
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Its parameters.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Encodes images [B, 3, S, S] and their texts, and compares each with each.
    ///
    /// # Errors
    /// As [`Clip::image`] and [`Clip::text`].
    pub fn forward(&self, pixels: &Tensor, ids: &[Vec<u32>]) -> Result<ClipOutput> {
        let (image, text) = (self.image(pixels)?, self.text(ids)?);
        let cosine = image.embedding.matmul(&text.embedding.t()?)?;
        Ok(ClipOutput { image, text, cosine, scale: self.weights.get("logit_scale")?.exp()? })
    }

    /// Encodes images [B, 3, S, S].
    ///
    /// # Errors
    /// When the images have another size than the model's.
    pub fn image(&self, pixels: &Tensor) -> Result<Encoded> {
        let (samples, channels, height, width) = pixels.dims4()?;
        let size = self.config.image;
        if (channels, height, width) != (3, size, size) {
            bail!("images must be 3 x {size} x {size}, but are {channels} x {height} x {width}");
        }
        let few = self.few(samples, self.config.image_tokens(), &self.config.vision);
        let parts = (0..samples).step_by(few).map(|b| self.image_features(&pixels.narrow(0, b, few.min(samples - b))?));
        let (features, gate) = join(parts)?;
        self.embed(features, gate, None, self.mixtures.as_ref().map(|m| (&m.vision_feature, "vision_feature_moe")))
    }

    /// Projected features of a few images [B, embed], and their token mixture's weights [B, T, E].
    fn image_features(&self, pixels: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (samples, patch) = (pixels.dim(0)?, self.config.patch);
        let tower = self.tower("vision_model", self.rows(self.config.image_tokens(), vec![0; samples]));
        // Patches do not overlap, so the patch convolution is one matrix product.
        let side = self.config.image / patch;
        let patches = pixels.reshape(&[samples, 3, side, patch, side, patch][..])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let kernel = tower.get("embeddings.patch_embedding.weight")?.flatten_from(1)?;
        let patches = project(&patches.reshape((samples, side * side, 3 * patch * patch))?, &kernel)?;
        let class = tower.get("embeddings.class_embedding")?.broadcast_as((samples, 1, self.config.vision.width))?;
        let h = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(tower.get("embeddings.position_embedding.weight")?)?;
        let (h, gate) = tower.run(tower.norm(&h, "pre_layrnorm")?, None)?;
        let pooled = tower.norm(&h.narrow(1, 0, 1)?.squeeze(1)?, "post_layernorm")?;
        Ok((project(&pooled, self.weights.get("visual_projection.weight")?)?, gate))
    }

    /// Encodes texts, each `context` token ids long; a text ends with its largest id, padding follows.
    ///
    /// # Errors
    /// When a text has another length, or an id lies beyond the vocabulary.
    pub fn text(&self, ids: &[Vec<u32>]) -> Result<Encoded> {
        let (context, vocabulary) = (self.config.context, self.config.vocabulary);
        let mut ends = Vec::with_capacity(ids.len());
        for text in ids {
            if text.len() != context {
                bail!("a text must have {context} token ids, but has {}", text.len());
            }
            if let Some(id) = text.iter().find(|&&id| id as usize >= vocabulary) {
                bail!("token ids must be below {vocabulary}, but one is {id}");
            }
            let largest = text.iter().max();
            ends.push(text.iter().position(|id| Some(id) == largest).unwrap_or(0));
        }
        let few = self.few(ids.len(), context, &self.config.text);
        let parts = ids.chunks(few).zip(ends.chunks(few)).map(|(ids, ends)| self.text_features(ids, ends));
        let (features, gate) = join(parts)?;
        let text_rows = ends.iter().flat_map(|&end| (0..context).map(move |t| t <= end)).collect();
        self.embed(features, gate, Some(text_rows), self.mixtures.as_ref().map(|m| (&m.text_feature, "text_feature_moe")))
    }

    /// Projected features of a few texts that end at `ends` [B, embed], and their token mixture's weights [B, T, E].
    fn text_features(&self, ids: &[Vec<u32>], ends: &[usize]) -> Result<(Tensor, Option<Tensor>)> {
        let context = self.config.context;
        let tower = self.tower("text_model", self.rows(context, ends.to_vec()));
        let table = tower.get("embeddings.token_embedding.weight")?;
        let h = table.index_select(&Tensor::new(ids.concat(), &Device::Cpu)?, 0)?;
        let h = h.reshape((ids.len(), context, self.config.text.width))?;
        let h = h.broadcast_add(tower.get("embeddings.position_embedding.weight")?)?;
        let future = |i: usize| if i % context > i / context { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..context * context).map(future).collect();
        let mask = Tensor::from_vec(mask, (context, context), &Device::Cpu)?.to_dtype(h.dtype())?;
        let (h, gate) = tower.run(h, Some(&mask))?;
        let last: Vec<u32> = ends.iter().enumerate().map(|(b, end)| (b * context + end) as u32).collect();
        let pooled = h.flatten_to(1)?.index_select(&Tensor::new(last, &Device::Cpu)?, 0)?;
        Ok((project(&tower.norm(&pooled, "final_layer_norm")?, self.weights.get("text_projection.weight")?)?, gate))
    }

    /// How many samples pass a tower at a time, so that its widest tensor stays below [`SMALL`] where that is possible.
    fn few(&self, samples: usize, tokens: usize, tower: &TowerConfig) -> usize {
        let widest = tokens.saturating_mul((4 * tower.width).max(tokens.saturating_mul(tower.heads)));
        match (SMALL - 1) / widest {
            0 => samples.max(1),
            few => few,
        }
    }

    fn tower(&self, name: &'static str, rows: MoeRows) -> Tower<'_> {
        let (config, mixture) = match name {
            "vision_model" => (self.config.vision, self.mixtures.as_ref().map(|m| &m.vision_token)),
            _ => (self.config.text, self.mixtures.as_ref().map(|m| &m.text_token)),
        };
        Tower { name, config, weights: &self.weights, mixture: mixture.map(|moe| (moe, rows)) }
    }

    /// All rows routed; the experts' output needed for one token of each sample.
    fn rows(&self, tokens: usize, read: Vec<usize>) -> MoeRows {
        let prune = self.mixtures.as_ref().is_some_and(|m| m.prune);
        let needed = read.into_iter().enumerate().map(|(b, t)| b * tokens + t).collect();
        MoeRows { rows_needed: prune.then_some(needed), ..MoeRows::new(Layout::SamplesFirst) }
    }

    /// Passes projected features [B, embed] through their mixture, and makes them unit rows.
    fn embed(
        &self,
        feature: Tensor,
        token: Option<Tensor>,
        text_rows: Option<Vec<bool>>,
        mixture: Option<(&Moe, &str)>,
    ) -> Result<Encoded> {
        let (Some((layer, name)), Some(token)) = (mixture, token) else {
            return Ok(Encoded { embedding: unit(&feature)?, gates: None, text_rows });
        };
        // One token a sample: [1, B, embed].
        let layout = Layout::TokensFirst;
        let out = moe(layer, &feature.unsqueeze(0)?, self.weights.get(name)?, MoeRows::new(layout))?;
        let token = GateTensor { weights: token, layout: Layout::SamplesFirst, row_mask: None };
        let gates = Some([token, GateTensor { weights: out.weights, layout, row_mask: None }]);
        Ok(Encoded { embedding: unit(&out.y.squeeze(0)?)?, gates, text_rows })
    }
}

/// Puts the features of a few samples each, and their mixture's weights, behind each other.
fn join(parts: impl Iterator<Item = Result<(Tensor, Option<Tensor>)>>) -> Result<(Tensor, Option<Tensor>)> {
    let (features, gates): (Vec<_>, Vec<_>) = parts.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let gates: Option<Vec<_>> = gates.into_iter().collect();
    Ok((Tensor::cat(&features, 0)?, gates.map(|gates| Tensor::cat(&gates, 0)).transpose()?))
}

impl ClipOutput {
    /// What the loss reads: all gates, and texts only up to their end token (paper); or the text's gates, padding included
    /// (authors). A plain CLIP has no gates.
    pub fn loss_input(&self, preset: Preset) -> FolInput {
        let gates = |side: &Encoded| side.gates.clone().into_iter().flatten();
        let gates = match preset {
            Preset::Authors => gates(&self.text).collect(),
            Preset::Paper => {
                let mut text: Vec<_> = gates(&self.text).collect();
                text.iter_mut().take(1).for_each(|token| token.row_mask = self.text.text_rows.clone());
                gates(&self.image).chain(text).collect()
            }
        };
        FolInput { similarity: self.cosine.clone(), scale: self.scale.clone(), gates }
    }
}
