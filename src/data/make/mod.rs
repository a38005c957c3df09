//! Makes data sets with a known bias, grounded in the clinic.
//!
//! Glaucoma shows as a larger cup in the optic disc and as notches in its rim (against the ISNT rule). What makes real models
//! unfair is built in, as strongly as asked: in one group discs are physiologically larger and healthy cups with them, its images
//! are poorer, and the disease is more frequent.

mod canvas;
mod eye;
mod fundus;
mod notes;
mod people;
mod vessels;
mod write;

use crate::error::{Error, Result};
use crate::files::create_folder_atomically;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::path::Path;

/// What a data set is made from. The same settings give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MakeConfig {
    /// How many samples: 7 in 10 for training, 1 for validation, 2 for the test. From about 1,000 on, every split has both labels
    /// in every group of every attribute.
    pub samples: usize,
    /// The strength of the bias against Black patients, from 0 (no group differs) to 2; 1 is plain to see.
    pub bias: f64,
    /// What everything random comes from.
    pub seed: u64,
}

impl MakeConfig {
    fn check(&self) -> Result<()> {
        if !(10..=1_000_000).contains(&self.samples) {
            return Err(Error::config("the number of samples", "from 10 to 1000000", self.samples));
        }
        if !(0.0..=2.0).contains(&self.bias) {
            return Err(Error::config("the bias", "from 0 to 2", self.bias));
        }
        Ok(())
    }
}

/// Makes a data set in the layout that [`super::DataSet`] reads, in the folder `out`, which appears when it is whole; it must be new or empty.
///
/// # Errors
/// When a setting is out of its range, `out` holds anything already, or a file cannot be written.
pub fn make(out: impl AsRef<Path>, config: &MakeConfig) -> Result<()> {
    config.check()?;
    create_folder_atomically(out.as_ref(), |folder| write::data_set(folder, config))
}

/// The random numbers of one sample, or of the population: independent of who draws them, and when. Of one seed, no two streams
/// are the same; nor are those of different seeds, but for the chance that two random states of 128 bits agree.
fn random(seed: u64, stream: u64) -> Pcg64 {
    Pcg64::new(Pcg64::seed_from_u64(seed).random(), stream.into())
}

/// A normal deviate, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_stream_of_every_seed_is_its_own() {
        let seeds = (0..4).chain((0..4).map(|seed| seed << 32)).collect::<HashSet<u64>>();
        let streams = (0..100).chain((0..4).map(|stream| stream << 32)).collect::<HashSet<u64>>();
        let first = |seed| streams.iter().map(move |&stream| random(seed, stream).next_u64());
        let firsts: HashSet<u64> = seeds.iter().flat_map(|&seed| first(seed)).collect();
        assert_eq!(firsts.len(), seeds.len() * streams.len());
    }

    #[test]
    fn streams_are_even_and_say_nothing_of_their_neighbours() {
        const STREAMS: u64 = 20_000;
        for draw in 0..4 {
            let nth = |stream| random(1, stream).random_iter::<f64>().nth(draw).unwrap() - 0.5;
            let all: Vec<f64> = (0..STREAMS).map(nth).collect();
            let deviation = (all.iter().map(|v| v * v).sum::<f64>() / STREAMS as f64).sqrt();
            let neighbours = all.windows(2).map(|v| v[0] * v[1]).sum::<f64>() / STREAMS as f64 * 12.0;
            // Four standard errors.
            assert!((deviation - 12f64.sqrt().recip()).abs() < 0.004, "draw {draw}: {deviation}");
            assert!(neighbours.abs() < 0.0283, "draw {draw}: {neighbours}");
        }
    }
}
