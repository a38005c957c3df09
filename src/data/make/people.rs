//! Whom a made data set holds: groups and labels in fixed shares, so that every split has each label in every group.

use crate::data::Split;
use rand::Rng;
use rand::seq::SliceRandom;

/// One patient.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) split: Split,
    /// 0 or 1.
    pub(super) label: u8,
    /// Race, gender, ethnicity, language; -1 unknown.
    pub(super) groups: [i8; 4],
    /// Years.
    pub(super) age: f64,
    /// Married, single, divorced, widowed, separated.
    pub(super) marital: i8,
}

impl Person {
    /// Whether this is one of the patients whom the bias disadvantages.
    pub(super) fn is_black(&self) -> bool {
        self.groups[0] == 1
    }
}

/// Asian, Black and White; the rarer are more than in the clinic, so that figures about them mean something.
const RACES: [(i8, f64); 3] = [(0, 0.15), (1, 0.30), (2, 0.55)];
const GENDERS: [(i8, f64); 2] = [(0, 0.56), (1, 0.44)];
/// Ethnicity and language together: most who speak Spanish are Hispanic.
const CULTURES: [((i8, i8), f64); 8] = [
    ((0, 0), 0.70),
    ((0, 1), 0.01),
    ((0, 2), 0.08),
    ((1, 0), 0.07),
    ((1, 1), 0.09),
    ((1, 2), 0.01),
    ((-1, 0), 0.02),
    ((0, -1), 0.02),
];
const MARITAL: [(i8, f64); 5] = [(0, 0.58), (1, 0.25), (2, 0.07), (3, 0.08), (4, 0.02)];

/// The share of glaucoma in every group, and what bias 1 adds to it among Black patients.
const PREVALENCE: f64 = 0.5;
const BLACK_PREVALENCE: f64 = 0.1;

/// Everybody, the splits one after another, in random order within each.
pub(super) fn population(samples: usize, bias: f64, rng: &mut impl Rng) -> Vec<Person> {
    let (training, validation) = (samples * 7 / 10, samples / 10);
    let sizes = [training, validation, samples - training - validation];
    let mut people = Vec::with_capacity(samples);
    for (split, size) in Split::ALL.into_iter().zip(sizes) {
        let positives = (size as f64 * PREVALENCE).round() as usize;
        let mut patients = of_label(split, 1, positives, bias, rng);
        patients.extend(of_label(split, 0, size - positives, bias, rng));
        patients.shuffle(rng);
        people.extend(patients);
    }
    people
}

fn of_label(split: Split, label: u8, count: usize, bias: f64, rng: &mut impl Rng) -> Vec<Person> {
    let black = if label == 1 { PREVALENCE + bias * BLACK_PREVALENCE } else { 1.0 - PREVALENCE - bias * BLACK_PREVALENCE };
    let races = RACES.map(|(race, share)| (race, share * if race == 1 { black } else { PREVALENCE }));
    let (races, genders) = (deal(&races, count, rng), deal(&GENDERS, count, rng));
    let (cultures, marital) = (deal(&CULTURES, count, rng), deal(&MARITAL, count, rng));
    let person = |i: usize| {
        let (ethnicity, language) = cultures[i];
        let groups = [races[i], genders[i], ethnicity, language];
        let age = (61.0 + 4.0 * f64::from(label) + 13.0 * super::normal(rng)).clamp(18.0, 95.0);
        Person { split, label, groups, age: (age * 10.0).round() / 10.0, marital: marital[i] }
    };
    (0..count).map(person).collect()
}

/// `count` values in these shares (of their sum), as exactly as whole numbers can have them, in random order.
fn deal<T: Copy>(shares: &[(T, f64)], count: usize, rng: &mut impl Rng) -> Vec<T> {
    let sum: f64 = shares.iter().map(|s| s.1).sum();
    let (mut dealt, mut share_so_far) = (Vec::with_capacity(count), 0.0);
    for &(value, share) in shares {
        share_so_far += share / sum;
        dealt.resize((share_so_far * count as f64).round() as usize, value);
    }
    dealt.shuffle(rng);
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::GROUP_NAMES;

    #[test]
    fn a_thousand_have_both_labels_in_every_group_of_every_split() {
        for (bias, seed) in [(0.0, 1), (1.0, 2), (2.0, 3)] {
            let people = population(1000, bias, &mut super::super::random(seed, 0));
            for split in Split::ALL {
                // What is left of a validation or test split when unknown attributes are left out.
                let known: Vec<_> = people.iter().filter(|p| p.split == split && !p.groups.contains(&-1)).collect();
                for (attribute, group) in (0..4).flat_map(|a| (0..GROUP_NAMES[a].len()).map(move |g| (a, g as i8))) {
                    for label in [0, 1] {
                        let count = known.iter().filter(|p| p.groups[attribute] == group && p.label == label).count();
                        assert!(count >= 2, "{split}, attribute {attribute}, group {group}, label {label}: {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn shares_are_as_exact_as_whole_numbers_can_be() {
        let mut rng = super::super::random(1, 0);
        for count in [0, 1, 7, 100] {
            let dealt = deal(&[('a', 1.0), ('b', 2.0), ('c', 1.0)], count, &mut rng);
            assert_eq!(dealt.len(), count);
            let b = dealt.iter().filter(|&&v| v == 'b').count() as f64;
            assert!((b - count as f64 / 2.0).abs() <= 1.0);
        }
    }
}
