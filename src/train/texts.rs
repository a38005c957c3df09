//! Texts as a model from scratch takes them.

use super::settings::Arch;
use crate::data::{CONTEXT, Sample, Tokens, tokenize};
use crate::error::{Error, Result};

/// The prompts of zero-shot classification: class 0, then class 1 (spec of the published evaluation).
pub(crate) const PROMPTS: [&str; 2] = ["A photo of non-glaucoma", "A photo of glaucoma"];

/// The token ids that a model knows. Of a model from scratch only those that its training texts use have a row in its table. The other rows of a
/// full table would never get a gradient, and nothing that the model is asked uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// CLIP's ids, ascending, so that the end token stays the largest.
    ids: Vec<u32>,
    /// Tokens of the longest text.
    context: usize,
}

impl Vocabulary {
    /// That of a model of this size on these training samples.
    pub(super) fn on(arch: Arch, training: &[Sample]) -> Self {
        match arch {
            Arch::Tiny => Self::of(training.iter().filter_map(|sample| sample.note.as_deref())),
            Arch::VitB16 | Arch::VitL14 => Self::whole(),
        }
    }

    /// That of these texts and the prompts.
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        // Padding has the id 0.
        let (mut ids, mut context) = (std::collections::BTreeSet::from([0]), 1);
        for text in texts.chain(PROMPTS) {
            let text = tokenize(text);
            context = context.max(length(&text));
            ids.extend(text);
        }
        Self { ids: ids.into_iter().collect(), context }
    }

    /// All of CLIP's.
    fn whole() -> Self {
        // The end token is the last.
        let last = tokenize("").into_iter().max().unwrap_or(0);
        Self { ids: (0..=last).collect(), context: CONTEXT }
    }

    /// That which a file recorded.
    pub(super) fn new(ids: Vec<u32>, context: usize) -> Self {
        Self { ids, context }
    }

    /// CLIP's ids, ascending.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens of the longest text.
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// A text's rows in the table.
    ///
    /// # Errors
    /// When it is longer, or has a token that the model was not trained on.
    pub(crate) fn rows(&self, text: &str) -> Result<Vec<u32>> {
        let ids = tokenize(text);
        if length(&ids) > self.context {
            return Err(Error::Refused(format!("the model reads {} tokens, but {text:?} has {}", self.context, length(&ids))));
        }
        let unknown = |_| Error::Refused(format!("the model was trained on none of a word in {text:?}"));
        let row = |id: &u32| self.ids.binary_search(id).map(|row| row as u32).map_err(unknown);
        ids.iter().take(self.context).map(row).collect()
    }

    /// A text's rows in the table without the tokens that the model was not trained on; what is too long loses its end.
    pub(crate) fn known(&self, text: &str) -> Vec<u32> {
        let mut ids = tokenize(text);
        ids.truncate(length(&ids));
        let mut rows: Vec<u32> = ids.iter().filter_map(|id| self.ids.binary_search(id).ok()).map(|row| row as u32).collect();
        let end = rows.pop();
        rows.truncate(self.context - 1);
        rows.extend(end);
        rows.resize(self.context, 0);
        rows
    }
}

/// How many samples' notes have more tokens than CLIP reads.
pub(super) fn long_notes(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| sample.note.as_deref().is_some_and(|note| Tokens::of(note).is_cut)).count()
}

/// Tokens up to and including the end token, which is the largest id.
fn length(ids: &[u32]) -> usize {
    ids.iter().max().and_then(|end| ids.iter().position(|id| id == end)).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_the_order_of_ids_and_the_end_token_is_last() {
        let vocabulary = Vocabulary::of(["thin rim, C/D 0.7"].into_iter());
        assert!(vocabulary.ids().is_sorted());
        assert_eq!(vocabulary.ids().first(), Some(&0));
        let rows = vocabulary.rows("thin rim").unwrap();
        assert_eq!(rows.len(), vocabulary.context());
        let clip: Vec<u32> = rows.iter().map(|&row| vocabulary.ids()[row as usize]).collect();
        assert_eq!(clip[..], tokenize("thin rim")[..rows.len()]);
        assert_eq!(length(&rows), 4);
    }

    #[test]
    fn a_word_never_seen_and_a_text_too_long_are_errors() {
        let vocabulary = Vocabulary::of([].into_iter());
        PROMPTS.iter().for_each(|prompt| drop(vocabulary.rows(prompt).unwrap()));
        vocabulary.rows("cataract").unwrap_err();
        assert_eq!(vocabulary.known("a cataract photo"), vocabulary.rows("a photo").unwrap());
        let cut = vocabulary.known("a photo of a photo of a photo of a photo");
        assert_eq!((cut.len(), cut.last()), (vocabulary.context(), vocabulary.rows(PROMPTS[0]).unwrap().last()));
        vocabulary.rows("a photo of a photo of a photo of a photo").unwrap_err();
    }
}
