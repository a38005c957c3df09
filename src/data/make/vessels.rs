//! Retinal vessels: they leave the disc up and down, bend to both sides, and branch.

use super::canvas::Canvas;
use rand::{Rng, RngExt};
use std::f32::consts::FRAC_PI_2;

/// A stretch of a vessel still to be drawn.
struct Vessel {
    /// Where it is, (column, row).
    at: (f32, f32),
    /// Where it goes, in radians below the right.
    towards: f32,
    /// Where it would rather go.
    aim: f32,
    /// Half its width in pixels.
    width: f32,
    /// How much of the light it takes away.
    dark: f32,
}

/// Draws the vessels that leave the disc at `root`; `temple` is +1 where the temple is at the right, -1 where it is at the left.
pub(super) fn paint(canvas: &mut Canvas, root: (f32, f32), temple: f32, rng: &mut impl Rng) {
    let mut vessels = vec![];
    for pole in [-1.0, 1.0] {
        for side in [-temple, temple] {
            // A vein, and a thinner and paler artery beside it.
            for (width, dark, apart) in [(6.5, 0.42, 4.0), (4.8, 0.30, -5.0)] {
                let slant = rng.random_range(0.25..0.75);
                vessels.push(Vessel {
                    at: (root.0 + apart, root.1 + rng.random_range(-6.0..6.0)),
                    towards: pole * (FRAC_PI_2 - side * rng.random_range(0.0..0.35)),
                    aim: pole * (FRAC_PI_2 - side * slant * FRAC_PI_2 * 1.3),
                    width: width * rng.random_range(0.85..1.15),
                    dark,
                });
            }
        }
    }
    while let Some(vessel) = vessels.pop() {
        draw(canvas, vessel, &mut vessels, rng);
    }
}

/// Draws a vessel until it is too thin to be seen or has left the image; its branches are left in `vessels`.
fn draw(canvas: &mut Canvas, mut vessel: Vessel, vessels: &mut Vec<Vessel>, rng: &mut impl Rng) {
    const STEP: f32 = 2.5;
    for _ in 0..260 {
        stamp(canvas, &vessel);
        vessel.towards += 0.02 * (vessel.aim - vessel.towards) + rng.random_range(-0.05..0.05);
        vessel.at = (vessel.at.0 + STEP * vessel.towards.cos(), vessel.at.1 + STEP * vessel.towards.sin());
        vessel.width *= 0.9955;
        if vessel.width < 1.0 {
            return;
        }
        if vessel.width > 1.6 && rng.random_bool(0.018) {
            let turn = if rng.random_bool(0.5) { 1.0 } else { -1.0 } * rng.random_range(0.4..0.8);
            let (towards, aim) = (vessel.towards + turn, vessel.aim + turn);
            vessels.push(Vessel { towards, aim, width: vessel.width * 0.66, ..vessel });
            vessel.width *= 0.88;
        }
    }
}

/// Darkens a round spot. Spots of one vessel overlap, so each takes the darker of what is there and what it would leave.
fn stamp(canvas: &mut Canvas, vessel: &Vessel) {
    let (x0, y0) = vessel.at;
    canvas.paint_around(vessel.at, vessel.width + 1.0, |x, y, through| {
        let far = ((x - x0) * (x - x0) + (y - y0) * (y - y0)) / (vessel.width * vessel.width);
        through.min(1.0 - vessel.dark * (1.2 - far).clamp(0.0, 1.0))
    });
}
