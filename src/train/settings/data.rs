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
    /// The samples of the batch itself: no further forward passes.
    Ids,
    /// A batch of its own for each group, from all its training samples in an order of their own (published codes).
    Separate,
}

/// What a step shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// The training texts: `note`, `label` or `mix`.
    pub text: TextSource,
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
    /// it is asked about later, and images in several looks.
    pub fn of(arch: Arch) -> Self {
        let (text, shift, mirror) = match arch {
            Arch::Tiny => (TextSource::Mix, 4, true),
            Arch::VitB16 | Arch::VitL14 => (TextSource::Note, 0, false),
        };
        Self { text, shift, mirror, drop_last: false, groups: GroupSource::Ids, group_batch: 32 }
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(1..=1 << 20).contains(&self.group_batch) {
            return Err(Error::config("the groups' batch", "from 1 to 1048576", self.group_batch));
        }
        Ok(())
    }
}
