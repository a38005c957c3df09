//! A picture of what was measured and predicted, under the machine's roof.

use super::{Ceilings, Cost, Measurement, Part, Pass, Predicted};
use crate::report::plot;

/// What was found of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Which shape, on what.
    pub heading: &'a str,
    /// What was measured.
    pub measured: &'a [Measurement],
    /// What was predicted of the same.
    pub predicted: &'a [Predicted],
}

/// An SVG file: speed over arithmetic intensity, a part a point, and a roof for each pair of ceilings, the first of which shares are of.
/// Parts that compute nothing, or of which no time is known, have no point, and are named.
pub fn roofline(title: String, roofs: &[(String, Ceilings)], found: &[Found<'_>]) -> String {
    let allowed = |intensity: f64| {
        let lower = |c: &Ceilings| c.flops_per_second.min(intensity * c.bytes_per_second);
        roofs.first().map(|(_, ceilings)| lower(ceilings))
    };
    let point = |(part, cost, seconds): (Part, Cost, f64), predicted: bool| {
        let (intensity, speed) = (cost.flops / cost.bytes, cost.flops / seconds);
        let share = allowed(intensity).map_or(String::new(), |most| format!(" {:.0}%", 100.0 * speed / most));
        let series = usize::from(part.1 == Pass::Backward);
        plot::Point { label: format!("{}{share}", part.0.name()), intensity, speed, series, predicted }
    };
    let panel = |found: &Found<'_>| {
        let timed = found.measured.iter().filter_map(|m| Some((m.part, m.cost, m.times?.median.as_secs_f64())));
        let shown = |(_, cost, seconds): &(Part, Cost, f64)| cost.flops > 0.0 && cost.bytes > 0.0 && *seconds > 0.0;
        let measured: Vec<_> = timed.filter(shown).collect();
        let predicted: Vec<_> = found.predicted.iter().map(|p| (p.part, p.cost, p.seconds)).filter(shown).collect();
        let is_shown = |part: Part| measured.iter().chain(&predicted).any(|p| p.0 == part);
        let without =
            found.measured.iter().filter(|m| !is_shown(m.part)).map(|m| format!("{} {}", m.part.0.name(), m.part.1.name()));
        let without = without.collect::<Vec<_>>().join(", ");
        let note = if without.is_empty() { without } else { format!("No arithmetic, or no time known: {without}") };
        let points = measured.into_iter().map(|p| point(p, false)).chain(predicted.into_iter().map(|p| point(p, true)));
        plot::Panel { heading: found.heading.to_owned(), note, points: points.collect() }
    };
    let roof = |(label, ceilings): &(String, Ceilings)| {
        let Ceilings { flops_per_second: flops, bytes_per_second: bytes } = *ceilings;
        plot::Roof { label: format!("{label}: {:.3} TFLOP/s, {:.1} GB/s", flops / 1e12, bytes / 1e9), flops, bytes }
    };
    let series = vec!["forward", "backward"];
    let panels = found.iter().map(panel).collect();
    plot::Roofline { name: "roofline".into(), title, series, roofs: roofs.iter().map(roof).collect(), panels }.draw().file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Stage, Times};
    use std::time::Duration;

    fn measurement(part: Part, flops: f64, ms: Option<u64>) -> Measurement {
        let times = ms.map(Duration::from_millis).map(|time| Times { median: time, min: time, max: time });
        Measurement { part, times, launches: None, cost: Cost { flops, bytes: 1e9 } }
    }

    #[test]
    fn each_time_that_is_known_of_a_part_is_a_point() {
        let (forward, backward) = (Pass::Forward, Pass::Backward);
        let measured = [
            measurement((Stage::Layer, forward), 1e12, Some(10)),
            measurement((Stage::Layer, backward), 2e12, Some(20)),
            measurement((Stage::Route, forward), 0.0, Some(1)),
            measurement((Stage::Experts, forward), 1e12, None),
        ];
        let (part, cost) = ((Stage::Experts, backward), measured[1].cost);
        let predicted = [Predicted { part, kernel: "4 kernels".into(), bound: None, seconds: 0.02, cost }];
        let roofs = [("published <1>".into(), Ceilings { flops_per_second: 2e14, bytes_per_second: 4e12 })];
        let found = Found { heading: "a shape & more", measured: &measured, predicted: &predicted };
        let svg = roofline("A machine".into(), &roofs, &[found, Found { heading: "nothing", measured: &[], predicted: &[] }]);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let of_class = |class: &str| document.descendants().filter(|n| n.attribute("class") == Some(class)).count();
        assert_eq!((of_class("point"), of_class("roof")), (3, 2 + 1));
        let texts: Vec<&str> = document.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
        // 1e12 in 10 ms: half of the 200 TFLOP/s that 1000 FLOP a byte allow.
        assert_eq!(texts.iter().filter(|text| **text == "layer 50%").count(), 2);
        assert!(texts.contains(&"No arithmetic, or no time known: route forward, experts forward"), "{texts:?}");
        assert!(texts.iter().any(|text| text.starts_with("backward, predicted, not measured")));
        assert!(!texts.iter().any(|text| text.starts_with("forward, predicted")));
    }
}
