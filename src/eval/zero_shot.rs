//! Zero-shot prediction: which of the two prompts is an image closer to?

use super::BATCH;
use crate::error::Result;
use crate::model::Encoded;
use crate::train::{Examples, PROMPTS, SavedModel, View};
use candle_core::DType;

/// Probability of glaucoma: sigmoid(s1 - s0) of the cosines with the two prompts, without the logit scale, as published. `watch` is
/// shown each batch of images as it is encoded.
pub(super) fn probabilities(
    model: &SavedModel,
    examples: &Examples,
    mut watch: impl FnMut(&[View], &Encoded) -> Result<()>,
) -> Result<Vec<f64>> {
    let prompts = PROMPTS.map(|prompt| model.vocabulary.rows(prompt)).into_iter().collect::<Result<Vec<_>>>()?;
    let clip = model.clip.frozen();
    let prompts = clip.text(&prompts)?.embedding;
    let mut out = Vec::with_capacity(examples.samples.len());
    for views in examples.plain().chunks(BATCH) {
        let images = clip.image(&examples.pixels(views, clip.weights().device())?)?;
        watch(views, &images)?;
        let cosines = images.embedding.matmul(&prompts.t()?)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        out.extend(cosines.iter().map(|s| 1.0 / (1.0 + (s[0] - s[1]).exp())));
    }
    Ok(out)
}
