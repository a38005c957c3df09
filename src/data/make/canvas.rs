//! A grey image under construction.

use rand::{Rng, RngExt};

/// Grey levels in floats, 0 to 255 when done.
pub(super) struct Canvas {
    width: usize,
    /// [height, width].
    pixels: Vec<f32>,
}

impl Canvas {
    pub(super) fn new(height: usize, width: usize) -> Self {
        Self { width, pixels: vec![0.0; height * width] }
    }

    /// Gives every pixel a new level, from its column, its row and its level so far.
    pub(super) fn paint(&mut self, level: impl FnMut(f32, f32, f32) -> f32) {
        self.paint_around((0.0, 0.0), f32::INFINITY, level);
    }

    /// The same within a square of this half side around a centre (column, row).
    pub(super) fn paint_around(&mut self, centre: (f32, f32), half: f32, mut level: impl FnMut(f32, f32, f32) -> f32) {
        // A cast to usize clips at 0, and takes infinity for the largest.
        let span = |centre: f32, length: usize| {
            let end = ((centre + half).ceil() as usize).saturating_add(1).min(length);
            ((centre - half).floor() as usize).min(end)..end
        };
        let (columns, rows) = (span(centre.0, self.width), span(centre.1, self.pixels.len() / self.width));
        for y in rows {
            let row = &mut self.pixels[y * self.width..][columns.clone()];
            for (x, pixel) in columns.clone().zip(row) {
                *pixel = level(x as f32, y as f32, *pixel);
            }
        }
    }

    /// Blurs as a lens out of focus does: two passes of a box each way, near enough a Gaussian of this deviation in pixels.
    pub(super) fn blur(&mut self, deviation: f32) {
        // A box of 2 r + 1 pixels has the variance r (r + 1) / 3.
        let radius = ((6.0 * deviation * deviation + 1.0).sqrt() / 2.0 - 0.5).round() as usize;
        if radius > 0 {
            for _ in 0..2 {
                self.average_rows(radius);
                self.average_columns(radius);
            }
        }
    }

    fn average_rows(&mut self, radius: usize) {
        let (last, weight) = (self.width - 1, 1.0 / (2 * radius + 1) as f32);
        let mut old = vec![0.0; self.width];
        for row in self.pixels.chunks_exact_mut(self.width) {
            old.copy_from_slice(row);
            // Beyond the edge the image goes on as it ends.
            let mut sum = old[0] * (radius + 1) as f32 + (1..=radius).map(|x| old[x.min(last)]).sum::<f32>();
            for (x, pixel) in row.iter_mut().enumerate() {
                *pixel = sum * weight;
                sum += old[(x + radius + 1).min(last)] - old[x.saturating_sub(radius)];
            }
        }
    }

    fn average_columns(&mut self, radius: usize) {
        let (width, old) = (self.width, self.pixels.clone());
        let (last, weight) = (old.len() / width - 1, 1.0 / (2 * radius + 1) as f32);
        let row = |y: usize| &old[y.min(last) * width..][..width];
        let mut sum: Vec<f32> = row(0).iter().map(|v| v * (radius + 1) as f32).collect();
        for y in 1..=radius {
            sum.iter_mut().zip(row(y)).for_each(|(sum, v)| *sum += v);
        }
        for (y, pixels) in self.pixels.chunks_exact_mut(width).enumerate() {
            let (enter, leave) = (row(y + radius + 1), row(y.saturating_sub(radius)));
            for (((pixel, sum), enter), leave) in pixels.iter_mut().zip(&mut sum).zip(enter).zip(leave) {
                *pixel = *sum * weight;
                *sum += enter - leave;
            }
        }
    }

    /// Adds to every pixel its own noise of this deviation.
    pub(super) fn add_noise(&mut self, deviation: f32, rng: &mut impl Rng) {
        // The sum of four random bytes has the mean 510 and the deviation 147.8; it is normal to the eye.
        let scale = deviation / 147.8;
        for pair in self.pixels.chunks_mut(2) {
            let bytes = rng.next_u64().to_le_bytes();
            for (pixel, four) in pair.iter_mut().zip(bytes.chunks_exact(4)) {
                *pixel += (four.iter().map(|&b| f32::from(b)).sum::<f32>() - 510.0) * scale;
            }
        }
    }

    /// In whole grey levels.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.pixels.iter().map(|v| v.round() as u8).collect()
    }
}

/// A smooth random field over an image, with values in -1 to 1.
pub(super) struct Clouds {
    width: usize,
    /// [height, width].
    values: Vec<f32>,
}

impl Clouds {
    /// A random knot every `cell` pixels, and smooth steps between knots.
    pub(super) fn new(height: usize, width: usize, cell: f32, rng: &mut impl Rng) -> Self {
        // For each pixel along one side, the knot before it and how far it is from there to the next.
        let along = |i: usize| {
            let place = i as f32 / cell;
            let t = place.fract();
            (place as usize, t * t * (3.0 - 2.0 * t))
        };
        let columns: Vec<(usize, f32)> = (0..width).map(along).collect();
        let mut row_of_knots =
            || (0..(width as f32 / cell) as usize + 2).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let (mut above, mut below, mut first) = (row_of_knots(), row_of_knots(), 0);
        let mut values = Vec::with_capacity(height * width);
        for (row, down) in (0..height).map(along) {
            if row > first {
                (above, below, first) = (below, row_of_knots(), row);
            }
            let knots: Vec<f32> = above.iter().zip(&below).map(|(a, b)| a + down * (b - a)).collect();
            values.extend(columns.iter().map(|&(k, across)| knots[k] + across * (knots[k + 1] - knots[k])));
        }
        Self { width, values }
    }

    /// Its value at a column and a row of the image.
    pub(super) fn at(&self, x: f32, y: f32) -> f32 {
        self.values[y as usize * self.width + x as usize]
    }
}
