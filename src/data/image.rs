//! Images as CLIP takes them: resized, cropped, and normalised, bit for bit as Pillow and torchvision do it.

use crate::error::{Error, Result, expect_shape, product};

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
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// What it then divides by.
const DEVIATION: [f32; 3] = [0.26862954, 0.261_302_6, 0.275_777_1];

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
        return Err(Error::config(
            "the image",
            "at least 1 x 1 pixel, before and after",
            format!("{} x {}", image.height, image.width),
        ));
    }
    let short = image.height.min(image.width);
    let scaled = |side: usize| Ok(product("the resized image", &[size, side])? / short);
    let (height, width) = (scaled(image.height)?, scaled(image.width)?);
    product("the resized image", &[height, width])?;
    // Rows first, then columns: each pass rounds to single precision, so their order matters.
    let across = Filter::new(image.width, width).rows(&image.pixels, image.width);
    let resized = Filter::new(image.height, height).columns(&across, width);
    // Python rounds halves to even.
    let start = |side: usize| ((side - size) as f64 / 2.0).round_ties_even() as usize;
    let rows = resized.chunks_exact(width).skip(start(height)).take(size);
    // A cast to u8 drops the fraction, and clips.
    Ok(rows.flat_map(|row| row.iter().skip(start(width)).take(size)).map(|&v| v as u8).collect())
}

/// A grey square as CLIP takes it: [size, size] -> [3, size, size].
pub fn normalise(grey: &[u8]) -> Vec<f32> {
    let channel = |(mean, deviation): (f32, f32)| grey.iter().map(move |&v| (f32::from(v) / 255.0 - mean) / deviation);
    MEAN.into_iter().zip(DEVIATION).flat_map(channel).collect()
}

/// For each output pixel along one side: where its inputs begin, and their weights.
struct Filter(Vec<(usize, Vec<f64>)>);

impl Filter {
    /// Pillow's: when shrinking, the bicubic kernel is stretched so that it covers every input.
    fn new(from: usize, to: usize) -> Self {
        if from == to {
            return Self((0..to).map(|i| (i, vec![1.0])).collect());
        }
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let output = |i: usize| {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(from);
            // Multiplied by the inverse, as Pillow does it: a division would round elsewhere.
            let weights = (first..last).map(|x| bicubic((x as f64 - centre + 0.5) * (1.0 / stretch)));
            let weights: Vec<f64> = weights.collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|w| if sum == 0.0 { w } else { w / sum }).collect())
        };
        Self((0..to).map(output).collect())
    }

    /// Resizes every row of `width` pixels.
    fn rows(&self, pixels: &[f32], width: usize) -> Vec<f32> {
        let row = |row: &[f32]| -> Vec<f32> {
            let weighted = |(first, weights): &(usize, Vec<f64>)| {
                let inputs = row[*first..].iter().zip(weights);
                inputs.map(|(&v, w)| f64::from(v) * w).sum::<f64>() as f32
            };
            self.0.iter().map(weighted).collect()
        };
        pixels.chunks_exact(width).flat_map(row).collect()
    }

    /// Resizes every column of rows of `width` pixels.
    fn columns(&self, pixels: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0f64; width];
        let row = |(first, weights): &(usize, Vec<f64>)| {
            sums.fill(0.0);
            for (row, w) in pixels.chunks_exact(width).skip(*first).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v) * w);
            }
            sums.iter().map(|&sum| sum as f32).collect::<Vec<f32>>()
        };
        self.0.iter().flat_map(row).collect()
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
