//! Grey images of the fundus around the optic disc, like those of a scanning laser ophthalmoscope.

use super::canvas::{Canvas, Clouds};
use super::eye::{Eye, Notch};
use super::vessels;
use rand::{Rng, RngExt};

/// Rows of an image, as in FairVLMed.
pub(super) const HEIGHT: usize = 664;
/// Columns.
pub(super) const WIDTH: usize = 512;

/// The optic disc as it lies in the image.
struct Disc<'a> {
    eye: &'a Eye,
    /// Its centre: column and row.
    centre: (f32, f32),
    /// +1 where the temple is at the right of the image, -1 where it is at the left.
    temple: f32,
    /// Its vertical radius in pixels.
    radius: f32,
}

/// A place as seen from the disc's centre.
struct Place {
    /// How far out, in radii of the disc in that direction.
    out: f32,
    /// The cosine of its angle, 1 towards the temple.
    temporal: f32,
    /// The sine of its angle, 1 straight below.
    inferior: f32,
}

impl<'a> Disc<'a> {
    fn new(eye: &'a Eye, rng: &mut impl Rng) -> Self {
        let mut near = |middle: usize| middle as f32 / 2.0 + rng.random_range(-18.0..18.0);
        let centre = (near(WIDTH), near(HEIGHT));
        Self { eye, centre, temple: if eye.is_right { -1.0 } else { 1.0 }, radius: eye.disc as f32 }
    }

    /// Discs are a little taller than wide.
    fn place(&self, x: f32, y: f32) -> Place {
        let across = (x - self.centre.0) * self.temple / (0.9 * self.radius);
        let down = (y - self.centre.1) / self.radius;
        let out = (across * across + down * down).sqrt().max(1e-3);
        Place { out, temporal: across / out, inferior: down / out }
    }

    /// How close to the notch a direction is: 1 in its middle, 0 far away.
    fn notched(&self, place: &Place) -> f32 {
        let pole = match self.eye.notch {
            Some(Notch::Inferior) => place.inferior,
            Some(Notch::Superior) => -place.inferior,
            None => return 0.0,
        };
        ((pole - 1.0) / 0.09).exp()
    }

    /// How far out the cup reaches in a direction. In health the rim is thickest below, then above, then nasally, and thinnest
    /// temporally (the ISNT rule); a notch breaks it.
    fn cup(&self, place: &Place) -> f32 {
        let cup = self.eye.cup as f32;
        let isnt = 1.0 + 0.10 * place.temporal - 0.05 * place.inferior - 0.04 * place.inferior * place.inferior;
        (cup * isnt + (0.97 - cup).max(0.0) * self.notched(place)).min(0.97)
    }
}

/// The image of an eye, [[`HEIGHT`], [`WIDTH`]].
pub(super) fn photograph(eye: &Eye, rng: &mut impl Rng) -> Vec<u8> {
    let disc = Disc::new(eye, rng);
    let mut canvas = Canvas::new(HEIGHT, WIDTH);
    // First how much light passes the vessels, then what it shows.
    canvas.paint(|_, _, _| 1.0);
    vessels::paint(&mut canvas, (disc.centre.0 - 0.2 * disc.temple * disc.radius, disc.centre.1), disc.temple, rng);
    paint_fundus(&mut canvas, &disc, rng);
    develop(&mut canvas, eye.poor as f32, rng);
    canvas.to_bytes()
}

/// Puts retina, disc and cup behind the vessels, under the light of the instrument.
fn paint_fundus(canvas: &mut Canvas, disc: &Disc<'_>, rng: &mut impl Rng) {
    let (choroid, grain) = (Clouds::new(HEIGHT, WIDTH, 70.0, rng), Clouds::new(HEIGHT, WIDTH, 9.0, rng));
    let bright = rng.random_range(72.0..88.0);
    let tilt = (rng.random_range(-0.12..0.12), rng.random_range(-0.12..0.12));
    canvas.paint(|x, y, through| {
        let place = disc.place(x, y);
        let mut level = bright + 9.0 * choroid.at(x, y) + 4.0 * grain.at(x, y);
        if place.out > 0.95 {
            level += nerve_fibres(disc, &place, &grain);
        }
        if place.out < 1.1 {
            let tissue = 60.0 + 60.0 * step(disc.cup(&place) - place.out, 0.06) + 6.0 * place.temporal;
            level += tissue * step(1.0 - place.out, 0.04);
        }
        let (dx, dy) = (x / WIDTH as f32 - 0.5, y / HEIGHT as f32 - 0.5);
        level * through * (1.0 + tilt.0 * dx + tilt.1 * dy - 0.9 * (dx * dx + dy * dy))
    });
}

/// The layer of nerve fibres: bright bundles above and below the disc, dark where a notch has cost them.
fn nerve_fibres(disc: &Disc<'_>, place: &Place, grain: &Clouds) -> f32 {
    let bundle = place.inferior * place.inferior * (1.0 + 0.3 * place.temporal);
    // Streaks follow the fibres away from the disc: the grain is sampled by angle.
    let streaks = grain.at(250.0 + 240.0 * place.temporal, if place.inferior > 0.0 { 500.0 } else { 100.0 });
    let loss = 1.0 - 0.8 * disc.notched(place);
    28.0 * bundle * (1.0 + 0.35 * streaks) * loss * (-(place.out - 1.0) / 1.6).exp()
}

/// What the camera makes of it: a poor image is out of focus, pale, veiled by clouded media, and noisy.
fn develop(canvas: &mut Canvas, poor: f32, rng: &mut impl Rng) {
    canvas.blur(1.0 + 13.0 * poor * poor);
    let veil = Clouds::new(HEIGHT, WIDTH, 55.0, rng);
    let (contrast, grey) = (1.0 - 0.6 * poor, 100.0);
    canvas.paint(|x, y, level| grey + contrast * (level - grey) + (2.0 + 16.0 * poor) * veil.at(x, y));
    canvas.add_noise(2.5 + 9.0 * poor, rng);
}

/// 0 well below zero, 1 well above, smooth over `width` in between.
fn step(x: f32, width: f32) -> f32 {
    let t = (x / width + 0.5).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
