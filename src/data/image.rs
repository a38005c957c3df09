//! Images as CLIP takes them: resized, cropped, and normalised, bit for bit as Pillow and torchvision do it.

use crate::error::{Error, Result, expect_shape, product};
use std::ops::Range;

/// A grey image; values act as 0 to 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// [height, width].
    pub pixels: Vec<f32>,
}

/// What CLIP takes off each of red, green and blue, in units of white.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// What it then divides by.
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// An image as CLIP takes it: [3, size, size], the grey in each of red, green and blue.
///
/// The shorter side is resized to `size` by Pillow's antialiased bicubic filter on floats, the middle square is cut out, values
/// are clipped to 0 to 255 and lose their fraction, and each channel is normalised by CLIP's mean and deviation.
///
/// # Errors
/// When the image has no pixels, or another number than its shape says, or `size` is 0.
pub fn preprocess(image: &Image, size: usize) -> Result<Vec<f32>> {
    Ok(normalise(&preprocess_grey(image, size)?))
}

/// [`preprocess`] without its last step: the square in whole steps of grey, [size, size].
///
/// # Errors
/// As [`preprocess`].
pub fn preprocess_grey(image: &Image, size: usize) -> Result<Vec<u8>> {
    expect_shape("the image", &[image.height, image.width], image.pixels.len())?;
    if image.pixels.is_empty() || size == 0 {
        let got = format!("{} x {} before, {size} x {size} after", image.height, image.width);
        return Err(Error::config("the image", "at least 1 x 1 pixel, before and after", got));
    }
    product("the preprocessed image", &[size, size, 3])?;
    let short = image.height.min(image.width);
    let resized = |side: usize| product("the resized image", &[size, side]).map(|area| area / short);
    let across = Filter::new(image.width, resized(image.width)?, size);
    let down = Filter::new(image.height, resized(image.height)?, size);
    // Rows first, then columns: the pass between rounds to single precision, so their order matters.
    let rows = &image.pixels[down.inputs.start * image.width..down.inputs.end * image.width];
    let square = down.columns(&across.rows(rows, image.width), size);
    // A cast to u8 drops the fraction, and clips.
    Ok(square.into_iter().map(|v| v as u8).collect())
}

/// A grey square as CLIP takes it: [size, size] -> [3, size, size].
pub fn normalise(grey: &[u8]) -> Vec<f32> {
    let channel = |(mean, deviation): (f32, f32)| grey.iter().map(move |&v| (f32::from(v) / 255.0 - mean) / deviation);
    MEAN.into_iter().zip(DEVIATION).flat_map(channel).collect()
}

/// How the middle of a resized side is made.
struct Filter {
    /// The inputs that matter to it.
    inputs: Range<usize>,
    /// For each output: where among these its own begin, and their weights.
    outputs: Vec<(usize, Vec<f64>)>,
}

impl Filter {
    /// Pillow's, for the middle `keep` of the `to` outputs: when shrinking, the bicubic kernel is stretched so that it covers
    /// every input.
    fn new(from: usize, to: usize, keep: usize) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let output = |i: usize| {
            if from == to {
                return (i, vec![1.0]);
            }
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(from);
            // Multiplied by the inverse, as Pillow does it: a division would round elsewhere.
            let weight = |x: usize| bicubic((x as f64 - centre + 0.5) * (1.0 / stretch));
            let sum: f64 = (first..last).map(weight).sum();
            (first, (first..last).map(|x| if sum == 0.0 { weight(x) } else { weight(x) / sum }).collect())
        };
        // Python rounds halves to even.
        let cut = ((to - keep) as f64 / 2.0).round_ties_even() as usize;
        let mut outputs: Vec<(usize, Vec<f64>)> = (cut..cut + keep).map(output).collect();
        let start = outputs.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let end = outputs.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(start);
        outputs.iter_mut().for_each(|(first, _)| *first -= start);
        Self { inputs: start..end, outputs }
    }

    /// Resizes every row of `width` pixels.
    fn rows(&self, pixels: &[f32], width: usize) -> Vec<f32> {
        let row = |row: &[f32]| -> Vec<f32> {
            let inputs = &row[self.inputs.clone()];
            let output = |(first, weights): &(usize, Vec<f64>)| {
                inputs[*first..].iter().zip(weights).map(|(&v, w)| f64::from(v) * w).sum::<f64>() as f32
            };
            self.outputs.iter().map(output).collect()
        };
        pixels.chunks_exact(width).flat_map(row).collect()
    }

    /// Resizes every column of rows of `width` pixels; the rows are this filter's inputs.
    fn columns(&self, pixels: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0f64; width];
        let output = |(first, weights): &(usize, Vec<f64>)| {
            sums.fill(0.0);
            for (row, w) in pixels.chunks_exact(width).skip(*first).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v) * w);
            }
            sums.iter().map(|&sum| sum as f32).collect::<Vec<f32>>()
        };
        self.outputs.iter().flat_map(output).collect()
    }
}

/// Keys' cubic with a = -1/2; zero beyond 2.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
