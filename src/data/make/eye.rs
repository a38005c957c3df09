//! What an eye is like, and how well it was photographed.

use super::normal;
use super::people::Person;
use rand::{Rng, RngExt};

/// The findings in one eye, and the quality of its image.
#[derive(Clone, Debug)]
pub(super) struct Eye {
    /// Right eyes have their temporal side at the left of the image.
    pub(super) is_right: bool,
    /// Vertical radius of the optic disc, in pixels of the whole image.
    pub(super) disc: f64,
    /// Vertical cup-to-disc ratio, a notch apart.
    pub(super) cup: f64,
    /// Where the rim is notched, if it is.
    pub(super) notch: Option<Notch>,
    /// Intraocular pressure in mmHg.
    pub(super) pressure: f64,
    /// Mean deviation of the visual field in dB: at least -1 in the healthy, below -3 in glaucoma, which is how labels are made.
    pub(super) deviation: f64,
    /// How poor the image is: 0 sharp and clear, 1 hardly legible.
    pub(super) poor: f64,
}

/// A local loss of the neuroretinal rim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notch {
    /// Below, where glaucoma takes the rim first.
    Inferior,
    /// Above.
    Superior,
}

impl Eye {
    /// An eye of this patient. The bias acts here: in Black patients discs are larger and healthy cups with them, as they are in
    /// the clinic, so that a cup-to-disc ratio says less; and their images are poorer.
    pub(super) fn of(person: &Person, bias: f64, rng: &mut impl Rng) -> Self {
        let bias = if person.is_black() { bias } else { 0.0 };
        let sick = person.label == 1;
        // However strong the bias, healthy cups stay smaller than those in glaucoma.
        let cup = if sick { 0.65 + 0.05 * bias } else { 0.70 - 0.30 * (-bias).exp() };
        let notched = rng.random_bool(if sick { 0.5 } else { 0.04 });
        let inferior = rng.random_bool(2.0 / 3.0);
        Self {
            is_right: rng.random_bool(0.5),
            disc: 84.0 * (1.0 + 0.14 * bias) * (1.0 + 0.06 * normal(rng)),
            cup: (cup + 0.10 * normal(rng)).clamp(0.15, 0.9),
            notch: notched.then_some(if inferior { Notch::Inferior } else { Notch::Superior }),
            pressure: (if sick { 20.0 } else { 15.0 } + 3.5 * normal(rng)).clamp(8.0, 45.0),
            deviation: if sick { -3.0 - 4.0 * exponential(rng) } else { (-0.2 + 0.6 * normal(rng)).clamp(-1.0, 2.0) },
            poor: (0.35 * rng.random::<f64>() + bias * (0.25 + 0.35 * rng.random::<f64>())).min(1.0),
        }
    }
}

/// Exponential of mean 1.
fn exponential(rng: &mut impl Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;

    fn eye(race: i8, bias: f64, seed: u64) -> Eye {
        let person = Person { split: Split::Training, label: 0, groups: [race, 0, 0, 0], age: 60.0, marital: 0 };
        Eye::of(&person, bias, &mut super::super::random(seed, 1))
    }

    #[test]
    fn without_bias_race_changes_nothing() {
        for seed in 0..20 {
            assert_eq!(format!("{:?}", eye(1, 0.0, seed)), format!("{:?}", eye(2, 0.0, seed)));
        }
    }

    #[test]
    fn with_bias_discs_and_healthy_cups_are_larger_and_images_poorer() {
        for seed in 0..20 {
            let (black, white) = (eye(1, 1.0, seed), eye(2, 1.0, seed));
            assert!(black.disc > white.disc && black.cup > white.cup && black.poor > white.poor);
            assert_eq!((black.notch, black.pressure), (white.notch, white.pressure));
        }
    }
}
