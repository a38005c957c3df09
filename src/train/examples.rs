//! Samples in memory, and the batches of an epoch.

use super::settings::{DataSettings, TextSource};
use super::texts::{PROMPTS, Vocabulary};
use crate::data::{DataSet, Sample, Split, normalise};
use crate::error::Result;
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use std::path::Path;

/// One split of a data set.
pub(crate) struct Examples {
    pub samples: Vec<Sample>,
    /// As [`DataSet::left_out`].
    pub left_out: usize,
    /// Each image [side, side] in steps of grey.
    images: Vec<Vec<u8>>,
    side: usize,
}

/// How a sample looks in one epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    pub sample: usize,
    note: bool,
    mirror: bool,
    down: i32,
    right: i32,
}

impl View {
    /// A sample as it is, with its note.
    pub fn with_note(sample: usize) -> Self {
        Self { sample, note: true, ..Self::default() }
    }
}

/// The `number`th stream of random numbers of a seed, from 1. Odd multiples keep those of neighbouring seeds apart.
pub(super) fn stream(seed: u64, number: u64) -> Pcg64 {
    Pcg64::seed_from_u64(seed ^ number.wrapping_mul(0x9e3779b97f4a7c15))
}

impl Examples {
    /// Reads and preprocesses every image of a split, or takes them from the file `cache` where they are kept. Samples whose
    /// image cannot be read are left out.
    pub fn load(data: &mut DataSet, split: Split, side: usize, cache: Option<&Path>) -> Result<Self> {
        let images = data.grey_images(split, side, cache)?;
        Ok(Self { samples: data.samples(split).to_vec(), left_out: data.left_out(split), images, side })
    }

    /// Every sample as it is, in order.
    pub fn plain(&self) -> Vec<View> {
        (0..self.samples.len()).map(|sample| View { sample, ..View::default() }).collect()
    }

    /// Every sample once, in the order and with the looks that the seed and the epoch decide.
    pub fn shuffled(&self, settings: &DataSettings, seed: u64, epoch: usize) -> Vec<View> {
        let mut rng = stream(seed, epoch as u64 + 1);
        let mut views = self.plain();
        views.shuffle(&mut rng);
        let shift = settings.shift.min(self.side / 2) as i32;
        for view in &mut views {
            view.note = match settings.text {
                TextSource::Note => true,
                TextSource::Label => false,
                TextSource::Mix => rng.random(),
            };
            view.mirror = settings.mirror && rng.random();
            view.down = rng.random_range(-shift..=shift);
            view.right = rng.random_range(-shift..=shift);
        }
        views
    }

    /// The groups of the attribute at `place`, or -1.
    pub fn groups(&self, views: &[View], place: usize) -> Vec<i64> {
        views.iter().map(|view| i64::from(self.samples[view.sample].groups[place])).collect()
    }

    /// [B, 3, side, side].
    pub fn pixels(&self, views: &[View], device: &Device) -> Result<Tensor> {
        let images: Vec<Vec<f32>> = views.par_iter().map(|view| normalise(&self.seen(view))).collect();
        Ok(Tensor::from_vec(images.concat(), (views.len(), 3, self.side, self.side), device)?)
    }

    /// Each sample's text, as rows of the token table.
    pub fn texts(&self, views: &[View], vocabulary: &Vocabulary) -> Result<Vec<Vec<u32>>> {
        views.iter().map(|view| vocabulary.rows(self.text(view))).collect()
    }

    fn text(&self, view: &View) -> &str {
        if view.note { self.note(view) } else { self.prompt(view) }
    }

    /// A sample's note; where it has none, the prompt of its class.
    pub fn note(&self, view: &View) -> &str {
        self.samples[view.sample].note.as_deref().unwrap_or(self.prompt(view))
    }

    fn prompt(&self, view: &View) -> &'static str {
        PROMPTS[usize::from(self.samples[view.sample].label == 1)]
    }

    /// A sample's image, mirrored and moved; what moves in from outside is black.
    fn seen(&self, view: &View) -> Vec<u8> {
        let (side, image) = (self.side as isize, &self.images[view.sample]);
        let pixel = |i: isize| {
            let (y, x) = (i / side - view.down as isize, i % side - view.right as isize);
            let x = if view.mirror { side - 1 - x } else { x };
            let inside = (0..side).contains(&y) && (0..side).contains(&x);
            if inside { image[(y * side + x) as usize] } else { 0 }
        };
        (0..side * side).map(pixel).collect()
    }
}
