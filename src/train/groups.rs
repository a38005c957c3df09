//! A batch of its own for each group in each step, as published.

use super::examples::{View, stream};
use super::settings::Settings;
use crate::data::{ATTRIBUTES, GROUP_NAMES, Sample};
use crate::error::{Error, Result};
use rand::seq::SliceRandom;

/// The training samples of one group, in a new order on each pass, without end.
pub(super) struct GroupLoader {
    members: Vec<usize>,
    batch: usize,
    seed: u64,
    /// Tells the loaders of one training apart.
    number: u64,
}

impl GroupLoader {
    /// Those of each attribute's groups, for the settings' attributes in turn.
    ///
    /// # Errors
    /// When a group has no training samples.
    pub fn all(settings: &Settings, training: &[Sample]) -> Result<Vec<Vec<Self>>> {
        let loader = |place: usize, group: usize| {
            let is_member = |i: &usize| usize::try_from(training[*i].groups[place]) == Ok(group);
            let members: Vec<usize> = (0..training.len()).filter(is_member).collect();
            if members.is_empty() {
                let (name, attribute) = (GROUP_NAMES[place][group], ATTRIBUTES[place]);
                let why = format!("no training sample has the {attribute} {name}, so it cannot be treated like the others");
                return Err(Error::Refused(why));
            }
            let number = (place << 8 | group) as u64 + 1;
            Ok(Self { members, batch: settings.data.group_batch, seed: settings.training.seed, number })
        };
        let of_attribute = |(place, groups)| (0..groups).map(|group| loader(place, group)).collect();
        settings.places()?.into_iter().map(of_attribute).collect()
    }

    /// The batch of a step, counted from 0; the last of a pass may be smaller. Groups are shown with their notes, as published.
    pub fn batch(&self, step: u64) -> Vec<View> {
        let per_pass = self.members.len().div_ceil(self.batch) as u64;
        let (pass, place) = (step / per_pass, (step % per_pass) as usize);
        let mut order = self.members.clone();
        // Streams below 2^32 are the epochs'.
        order.shuffle(&mut stream(self.seed, (self.number << 48) + (pass << 32)));
        let own = order.into_iter().skip(place * self.batch).take(self.batch);
        own.map(View::with_note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pass_shows_every_member_once_and_in_another_order() {
        let loader = GroupLoader { members: (10..27).collect(), batch: 5, seed: 3, number: 1 };
        let samples = |steps: std::ops::Range<u64>| -> Vec<Vec<usize>> {
            steps.map(|step| loader.batch(step).iter().map(|view| view.sample).collect()).collect()
        };
        let (first, second) = (samples(0..4), samples(4..8));
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5, 2]);
        for pass in [&first, &second] {
            let mut all = pass.concat();
            all.sort_unstable();
            assert_eq!(all, (10..27).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        // A step's batch depends on nothing but its number.
        assert_eq!(samples(6..7)[0], second[2]);
    }
}
