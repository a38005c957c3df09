//! From values to lengths.

use super::WIDTH;
use crate::report::words::ten_to;

/// A straight line from the values low..high to the lengths from..to.
#[derive(Clone, Copy, Debug)]
pub(in crate::report) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    from: f64,
    to: f64,
}

/// Where an axis is marked: each place with its label; and the power of ten that labels are to be multiplied by.
pub(super) struct Ticks {
    pub(super) at: Vec<(f64, String)>,
    pub(super) power: i32,
}

impl Scale {
    /// The values from `low` to `high`, which become lengths when the figure is drawn.
    pub(in crate::report) fn new(low: f64, high: f64) -> Self {
        // Beyond this the difference of two values is no number.
        let [low, high] = [low, high].map(|v| v.clamp(-1e300, 1e300));
        // And below this a tenth of it is none.
        let high = if high - low > 1e-300 { high } else { low + low.abs().max(1e-300) };
        Self { low, high, from: 0.0, to: 1.0 }
    }

    /// From the largest multiple of `step` below all values to the smallest above all; none without values.
    pub(in crate::report) fn around(values: impl Iterator<Item = f64>, step: f64) -> Option<Self> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        (low <= high).then(|| Self::new((low / step).floor() * step, (high / step).ceil() * step))
    }

    /// From 0, or the least value if that is below it, to the largest value and a little room.
    pub(in crate::report) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((0.0, 0.0), |(low, high): (f64, f64), v| (low.min(v), high.max(v)));
        if low == high { Self::new(0.0, 1.0) } else { Self::new(low * 1.05, high * 1.05) }
    }

    pub(super) fn on(self, from: f64, to: f64) -> Self {
        Self { from, to, ..self }
    }

    /// The length of a value; a value beyond the ends stays at the end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    /// About so many round values, with labels that tell them apart.
    pub(super) fn ticks(&self, about: f64) -> Ticks {
        let rough = (self.high - self.low) / about;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit).into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough);
        let first = (self.low / step - 1e-6).ceil();
        let count = (self.high / step + 1e-6).floor() - first;
        let values: Vec<f64> = (0..=count.clamp(0.0, 4.0 * about) as usize).map(|n| (first + n as f64) * step).collect();
        let largest = self.low.abs().max(self.high.abs());
        let power = if (1e-2..1e4).contains(&largest) { 0 } else { largest.log10().floor() as i32 };
        let size = 10f64.powi(power);
        let decimals = (-(step / size * 1.001).log10().floor()).clamp(0.0, 6.0) as usize;
        Ticks { at: values.into_iter().map(|v| (v, format!("{:.decimals$}", v / size + 0.0))).collect(), power }
    }
}

/// The title of an axis, with the power of ten of its labels.
pub(super) fn titled(title: &str, power: i32) -> String {
    if power == 0 { title.to_owned() } else { format!("{title} (× {})", ten_to(power)) }
}

/// What a tick's label is aligned by, so that it does not leave the figure.
pub(super) fn anchor(x: f64) -> &'static str {
    match x {
        x if x < 10.0 => "start",
        x if x > WIDTH - 10.0 => "end",
        _ => "middle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> (Vec<String>, i32) {
        let ticks = Scale::new(low, high).ticks(5.0);
        (ticks.at.into_iter().map(|(_, label)| label).collect(), ticks.power)
    }

    #[test]
    fn ticks_are_round_and_told_apart() {
        assert_eq!(labels(0.0, 1.0), (["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"].map(String::from).to_vec(), 0));
        assert_eq!(labels(1.0, 10.0), (["2", "4", "6", "8", "10"].map(String::from).to_vec(), 0));
        assert_eq!(labels(0.0, 3e-8), (["0", "1", "2", "3"].map(String::from).to_vec(), -8));
        assert_eq!(titled("loss", -8), "loss (× 10⁻⁸)");
    }

    #[test]
    fn no_range_is_too_small_or_too_large() {
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (-1e308, 1e308), (0.0, 5e-324), (1.0, 1.0 + 1e-15), (-3.0, -3.0)] {
            let scale = Scale::new(low, high).on(0.0, 100.0);
            let ticks = scale.ticks(4.0);
            assert!(ticks.at.len() <= 17, "{low} to {high}: {}", ticks.at.len());
            for value in [low, high, 0.0].into_iter().chain(ticks.at.iter().map(|t| t.0)) {
                assert!((0.0..=100.0).contains(&scale.at(value)), "{value} of {low} to {high} is at {}", scale.at(value));
            }
        }
    }
}
