//! The settings of what a step shows.

use super::Arch;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What text a training image is matched with. A sample without a note always has its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextSource {
    /// Its summarised note.
    Note,
    /// The prompt of its label.
    Label,
    /// Either, by the toss of a coin in each epoch.
    Mix,
}

/// Where a step's groups come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupSource {
    /// The samples of the batch itself: no further forward passes. In a batch of 32 rare groups often have one sample or none,
    /// and then their terms say little; `log.jsonl` counts in how many steps.
    Ids,
    /// A batch of its own for each group, from all its training samples in an order of their own (published codes).
    Separate,
}

/// What becomes of a training note of more than CLIP's 77 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LongNotes {
    /// Nothing is trained (published codes).
    Error,
    /// It loses its end, and `start.json` says how many did.
    Cut,
}

/// What a step shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// The training texts: `note`, `label` or `mix`.
    pub text: TextSource,
    /// What becomes of training notes that are too long: `error` or `cut`.
    pub long_notes: LongNotes,
    /// In each epoch an image is moved by up to so many pixels either way.
    pub shift: usize,
    /// In each epoch an image is mirrored or not.
    pub mirror: bool,
    /// Whether the last step of an epoch is left out where it has fewer samples than the others.
    pub drop_last: bool,
    /// Where groups come from: `ids` or `separate`.
    pub groups: GroupSource,
    /// Samples in a separate batch of a group.
    pub group_batch: usize,
}

impl DataSettings {
    /// As is published for pretrained models: notes, and images as they are. A model from scratch sees the prompts too, which
    /// it is asked about later, and images in several looks; and, so that it is quick, has no batches of groups.
    pub fn of(arch: Arch) -> Self {
        let (text, shift, mirror, groups) = match arch {
            Arch::Tiny => (TextSource::Mix, 4, true, GroupSource::Ids),
            Arch::VitB16 | Arch::VitL14 => (TextSource::Note, 0, false, GroupSource::Separate),
        };
        Self { text, long_notes: LongNotes::Cut, shift, mirror, drop_last: false, groups, group_batch: 32 }
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(1..=1 << 20).contains(&self.group_batch) {
            return Err(Error::config("the groups' batch", "from 1 to 1048576", self.group_batch));
        }
        Ok(())
    }
}
