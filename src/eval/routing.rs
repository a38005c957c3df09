//! Where a model's mixtures send the samples of each group.

use super::BATCH;
use super::tally::Tally;
use crate::error::Result;
use crate::model::{Encoded, Gates};
use crate::train::{Examples, SavedModel, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is in `routing.json`. A plain CLIP has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// By name: `vision_token`, `text_token`, `vision_feature`, `text_feature`.
    pub mixtures: BTreeMap<String, MixtureRouting>,
}

/// Where one mixture sends what it is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MixtureRouting {
    /// E.
    pub experts: usize,
    /// What it was given: `images`, `notes` (a sample without one has its prompt) or `prompts` (of the sample's class).
    pub input: String,
    /// Over all samples.
    pub all: Load,
    /// Over the samples of each group, by the attribute's and the group's name.
    pub attributes: BTreeMap<String, BTreeMap<String, Load>>,
}

/// How a mixture treats a set of samples. Its rows are all tokens of an image, a text's tokens up to its end token, or, in a
/// feature mixture, the one feature of a sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// How many samples.
    pub samples: usize,
    /// `[E]` each expert's share of the kept pairs of a row and an expert; the same for all in a mixture that keeps every pair.
    pub load: Vec<f64>,
    /// `[E]` each expert's share of the final weights' sum.
    pub importance: Vec<f64>,
    /// The share of chosen pairs that capacity dropped; none without rows.
    pub dropped: Option<f64>,
    /// The mean entropy of a row's probabilities, in nats: from 0 to ln E. None without rows.
    pub entropy: Option<f64>,
    /// `[E]` the unbiased variance over the rows of each expert's final weights, pairs that were not kept counting 0.
    pub dispersion: Vec<f64>,
}

/// Watches what the mixtures of a model do. Of a plain CLIP it sees nothing.
pub(super) struct Watch {
    /// In the order of [`MIXTURES`].
    mixtures: Option<[Tally; 4]>,
    texts: &'static str,
}

/// What the mixtures are called: the image's token and feature mixture, the text's.
const MIXTURES: [&str; 4] = ["vision_token", "vision_feature", "text_token", "text_feature"];

impl Watch {
    pub fn new(model: &SavedModel) -> Self {
        let tallies = |mixtures: [&crate::MoeConfig; 4]| mixtures.map(|moe| Tally::new(moe.experts.count, moe.top_k));
        Self { mixtures: model.clip.mixtures().map(tallies), texts: "" }
    }

    /// Sees images as they are encoded.
    pub fn images(&mut self, examples: &Examples, views: &[View], encoded: &Encoded) -> Result<()> {
        let Some(([token, feature, _, _], gates)) = self.mixtures.as_mut().zip(encoded.gates.as_ref()) else { return Ok(()) };
        see([token, feature], gates, None, examples, views)
    }

    /// Encodes the samples' texts, and sees that: their notes, or, where no sample has one, the prompts of their classes.
    pub fn texts(&mut self, model: &SavedModel, examples: &Examples) -> Result<()> {
        let Some([_, _, token, feature]) = self.mixtures.as_mut() else { return Ok(()) };
        self.texts = if examples.samples.iter().any(|s| s.note.is_some()) { "notes" } else { "prompts" };
        let clip = model.clip.frozen();
        for views in examples.plain().chunks(BATCH) {
            let texts: Vec<_> = views.iter().map(|view| model.vocabulary.known(examples.note(view))).collect();
            let encoded = clip.text(&texts)?;
            if let Some(gates) = &encoded.gates {
                see([&mut *token, &mut *feature], gates, encoded.text_rows.as_deref(), examples, views)?;
            }
        }
        Ok(())
    }

    /// What was seen.
    pub fn routing(self) -> Option<Routing> {
        let texts = self.texts;
        let inputs = ["images", "images", texts, texts];
        let named =
            |tallies: [Tally; 4]| MIXTURES.into_iter().zip(inputs).zip(tallies).map(|((n, i), t)| (n.to_owned(), t.routing(i)));
        Some(Routing { mixtures: named(self.mixtures?).collect() })
    }
}

/// Adds what both gates of one side said of some samples; `rows` [B·T] are the token rows that count, none for all.
fn see(tallies: [&mut Tally; 2], gates: &Gates, rows: Option<&[bool]>, examples: &Examples, views: &[View]) -> Result<()> {
    let groups: Vec<[i8; 4]> = views.iter().map(|view| examples.samples[view.sample].groups).collect();
    let [token, feature] = tallies;
    token.add(&gates.token, rows, &groups)?;
    feature.add(&gates.feature, None, &groups)
}
