//! The two towers, and what they say of a batch.

use super::config::{ClipConfig, TowerConfig};
use super::gates::{GateChoice, GateName, GateScores, Gates};
use super::mixtures::{Mixtures, Subtract};
use super::ops::{linear, unit};
use super::tower::{TokenMixture, Tower};
use super::weights::Weights;
use crate::candle::{FolInput, MoeRows, moe};
use crate::config::MoeConfig;
use crate::moe::{Layout, Moe};
use candle_core::{DType, Device, Result, Tensor, bail};

/// candle spreads an operation of at least so many numbers over threads that spin while they wait, which costs more than it
/// gains where several models train side by side; and what is smaller stays in the cache.
const SMALL: usize = 1 << 16;

/// A CLIP, plain or with Fair-MoE's mixtures.
#[derive(Clone, Debug)]
pub struct Clip {
    config: ClipConfig,
    mixtures: Option<Layers>,
    weights: Weights,
    computing: DType,
}

/// The four mixtures as layers.
#[derive(Clone, Debug)]
struct Layers {
    vision_token: Moe,
    text_token: Moe,
    vision_feature: Moe,
    text_feature: Moe,
    subtract: Subtract,
    feature_residual: bool,
    route_padding: bool,
    prune: bool,
}

/// One side of a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// [B, embed], what the projection gives, or in Fair-MoE the mixture behind it; of the dtype that the model computes in.
    pub feature: Tensor,
    /// [B, embed], the same with rows of length 1; f64 where the model computes in f64, else f32.
    pub embedding: Tensor,
    /// What the gates said; none in a plain CLIP.
    pub gates: Option<Gates>,
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
    /// A model of these parameters; they must have been made for this configuration. It computes in their dtype, and where they are.
    ///
    /// # Errors
    /// When the configuration is out of range.
    pub fn new(config: ClipConfig, mixtures: Option<&Mixtures>, weights: Weights) -> crate::Result<Self> {
        config.check()?;
        let computing = weights.dtype();
        Ok(Self { config, mixtures: mixtures.map(Layers::new).transpose()?, weights, computing })
    }

    /// The same model computing in f64, f32, bf16 or f16. Parameters and their gradients keep their dtype, and norms, softmax,
    /// gates and the comparison of both sides are computed in f32 at least.
    #[must_use]
    pub fn computing(self, dtype: DType) -> Self {
        Self { computing: dtype, ..self }
    }

    /// The same model with its parameters on that device of candle's, where it then computes.
    ///
    /// # Errors
    /// When that has no room for them.
    pub fn on(self, device: &Device) -> crate::Result<Self> {
        if self.weights.device().same_device(device) {
            return Ok(self);
        }
        Ok(Self { weights: self.weights.on(device)?, ..self })
    }

    /// The same model with its mixtures on that device, which takes their numbers from the host's memory and gives them back.
    ///
    /// # Errors
    /// As [`Moe::on`].
    pub fn layers_on(mut self, device: &crate::Device) -> crate::Result<Self> {
        if let Some(m) = &mut self.mixtures {
            for layer in [&mut m.vision_token, &mut m.text_token, &mut m.vision_feature, &mut m.text_feature] {
                *layer = Moe::on(layer.config().clone(), device.clone())?;
            }
        }
        Ok(self)
    }

    /// The same model, of the same parameters also when they change, but without gradients: its passes keep nothing of what they
    /// compute.
    pub fn frozen(&self) -> Self {
        Self { weights: self.weights.frozen(), ..self.clone() }
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Its mixtures: the image tower's, the one behind the image's projection, and the same of the text; none in a plain CLIP.
    pub fn mixtures(&self) -> Option<[&MoeConfig; 4]> {
        let m = self.mixtures.as_ref()?;
        Some([&m.vision_token, &m.vision_feature, &m.text_token, &m.text_feature].map(Moe::config))
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
        let scale = self.weights.get("logit_scale")?.to_dtype(cosine.dtype())?.exp()?;
        Ok(ClipOutput { image, text, cosine, scale })
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

    /// Projected features of a few images [B, embed], and what their token mixture's gate said.
    fn image_features(&self, pixels: &Tensor) -> Result<(Tensor, Option<GateScores>)> {
        let (samples, patch) = (pixels.dim(0)?, self.config.patch);
        let tower = self.tower("vision_model", self.rows(self.config.image_tokens(), vec![0; samples]));
        // Patches do not overlap, so the patch convolution is one matrix product.
        let side = self.config.image / patch;
        let pixels = pixels.to_dtype(self.computing)?;
        let patches = pixels.reshape(&[samples, 3, side, patch, side, patch][..])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let kernel = tower.get("embeddings.patch_embedding.weight")?.flatten_from(1)?;
        let patches = linear(&patches.reshape((samples, side * side, 3 * patch * patch))?, None, &kernel, None)?;
        // Sums over the batch, which these parameters' gradients are, are in the parameters' dtype.
        let class = tower.get("embeddings.class_embedding")?.broadcast_as((samples, 1, self.config.vision.width))?;
        let h = Tensor::cat(&[&class, &patches.to_dtype(class.dtype())?], 1)?;
        let h = h.broadcast_add(tower.get("embeddings.position_embedding.weight")?)?.to_dtype(self.computing)?;
        let (h, gate) = tower.run(tower.norm(&h, "pre_layrnorm")?)?;
        let pooled = tower.norm(&h.narrow(1, 0, 1)?.squeeze(1)?, "post_layernorm")?;
        Ok((linear(&pooled, None, self.weights.get("visual_projection.weight")?, None)?, gate))
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
        let text_rows = self.not_padding(&ends);
        self.embed(features, gate, Some(text_rows), self.mixtures.as_ref().map(|m| (&m.text_feature, "text_feature_moe")))
    }

    /// Projected features of a few texts that end at `ends` [B, embed], and what their token mixture's gate said.
    fn text_features(&self, ids: &[Vec<u32>], ends: &[usize]) -> Result<(Tensor, Option<GateScores>)> {
        let context = self.config.context;
        let mut rows = self.rows(context, ends.to_vec());
        if self.mixtures.as_ref().is_some_and(|m| !m.route_padding) {
            rows.row_mask = Some(self.not_padding(ends));
        }
        let tower = self.tower("text_model", rows);
        let table = tower.get("embeddings.token_embedding.weight")?;
        let h = table.index_select(&Tensor::new(ids.concat(), table.device())?, 0)?;
        let h = h.reshape((ids.len(), context, self.config.text.width))?;
        let h = h.broadcast_add(tower.get("embeddings.position_embedding.weight")?)?.to_dtype(self.computing)?;
        let (h, gate) = tower.run(h)?;
        let last: Vec<u32> = ends.iter().enumerate().map(|(b, end)| (b * context + end) as u32).collect();
        let pooled = h.flatten_to(1)?.index_select(&Tensor::new(last, h.device())?, 0)?;
        let pooled = tower.norm(&pooled, "final_layer_norm")?;
        Ok((linear(&pooled, None, self.weights.get("text_projection.weight")?, None)?, gate))
    }

    /// `[B · T]`: true up to and including each text's end.
    fn not_padding(&self, ends: &[usize]) -> Vec<bool> {
        ends.iter().flat_map(|&end| (0..self.config.context).map(move |t| t <= end)).collect()
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
        let (config, causal) = if name == "text_model" { (self.config.text, true) } else { (self.config.vision, false) };
        let mixture = self.mixtures.as_ref().map(|m| TokenMixture {
            layer: if name == "text_model" { &m.text_token } else { &m.vision_token },
            rows,
            subtract: m.subtract,
        });
        Tower { name, config, hidden_act: self.config.hidden_act, causal, weights: &self.weights, mixture }
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
        mut feature: Tensor,
        token: Option<GateScores>,
        text_rows: Option<Vec<bool>>,
        mixture: Option<(&Moe, &str)>,
    ) -> Result<Encoded> {
        let mut gates = None;
        if let (Some((layer, name)), Some(token)) = (mixture, token) {
            // One token a sample: [B, 1, embed].
            let x = feature.unsqueeze(1)?;
            let parameters = self.weights.get(name)?.to_dtype(x.dtype())?;
            let out = moe(layer, &x, &parameters, MoeRows::new(Layout::SamplesFirst))?;
            let y = out.y.squeeze(1)?;
            feature = if self.mixtures.as_ref().is_some_and(|m| m.feature_residual) { (feature + y)? } else { y };
            let [weights, probabilities, logits] = [out.weights, out.probabilities, out.logits].map(|t| t.squeeze(1));
            let scores = GateScores { weights: weights?, probabilities: probabilities?, logits: logits? };
            gates = Some(Gates { token, feature: scores });
        }
        let wide = if self.computing == DType::F64 { DType::F64 } else { DType::F32 };
        Ok(Encoded { embedding: unit(&feature.to_dtype(wide)?)?, feature, gates, text_rows })
    }
}

impl Layers {
    fn new(m: &Mixtures) -> crate::Result<Self> {
        let token = |moe: &MoeConfig| Moe::new(MoeConfig { subtract_input: m.subtract == Subtract::LayerInput, ..moe.clone() });
        Ok(Self {
            vision_token: token(&m.vision_token)?,
            text_token: token(&m.text_token)?,
            vision_feature: Moe::new(m.vision_feature.clone())?,
            text_feature: Moe::new(m.text_feature.clone())?,
            subtract: m.subtract,
            feature_residual: m.feature_residual,
            route_padding: m.route_padding,
            prune: m.prune,
        })
    }
}

/// Puts the features of a few samples each, and what their mixture's gate said, behind each other.
fn join(parts: impl Iterator<Item = Result<(Tensor, Option<GateScores>)>>) -> Result<(Tensor, Option<GateScores>)> {
    let (features, gates): (Vec<_>, Vec<_>) = parts.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let gates: Option<Vec<_>> = gates.into_iter().collect();
    Ok((Tensor::cat(&features, 0)?, gates.map(|gates| GateScores::join(&gates)).transpose()?))
}

impl ClipOutput {
    /// What the loss reads. A plain CLIP has no gates.
    ///
    /// # Errors
    /// When rows must be chosen by weights that cannot be read.
    pub fn loss_input(&self, choice: &GateChoice) -> Result<FolInput> {
        let mut gates = vec![];
        for name in GateName::ALL.iter().filter(|name| choice.gates.contains(name)) {
            let side = if GateName::TEXT.contains(name) { &self.text } else { &self.image };
            let Some(both) = &side.gates else { continue };
            gates.push(match name {
                GateName::ImageToken | GateName::TextToken => both.token(choice, side.text_rows.as_deref())?,
                GateName::ImageFeature | GateName::TextFeature => both.feature(choice),
            });
        }
        Ok(FolInput { similarity: self.cosine.clone(), scale: self.scale.clone(), gates })
    }
}
