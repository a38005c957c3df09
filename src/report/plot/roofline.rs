//! Speed over arithmetic intensity, both in powers of ten, under the roof that a machine's ceilings make.

use super::marker::{hollow, marker};
use super::{Figure, Scale, fit, px, width};
use crate::report::words::ten_to;
use maud::{Markup, html};

/// One point under the roof.
pub(crate) struct Point {
    /// What it is of.
    pub(crate) label: String,
    /// FLOP a byte: above 0.
    pub(crate) intensity: f64,
    /// FLOP/s: above 0.
    pub(crate) speed: f64,
    /// Which series it is.
    pub(crate) series: usize,
    /// Whether it was computed and not measured.
    pub(crate) predicted: bool,
}

/// Points under one heading.
pub(crate) struct Panel {
    /// The heading.
    pub(crate) heading: String,
    /// A line below it; may be empty.
    pub(crate) note: String,
    /// The points.
    pub(crate) points: Vec<Point>,
}

/// Two ceilings: FLOP/s and bytes/s.
pub(crate) struct Roof {
    /// Where they are from.
    pub(crate) label: String,
    /// FLOP/s.
    pub(crate) flops: f64,
    /// Bytes/s.
    pub(crate) bytes: f64,
}

/// The whole figure.
pub(crate) struct Roofline {
    /// Its name.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) title: String,
    /// What the series are called.
    pub(crate) series: Vec<&'static str>,
    /// The first is drawn solid, the others dashed.
    pub(crate) roofs: Vec<Roof>,
    /// Under one another, on the same axes.
    pub(crate) panels: Vec<Panel>,
}

const WIDE: f64 = 660.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = WIDE - 10.0;
/// What a panel's heading takes, its plot, and its axis below.
const HEAD: f64 = 40.0;
const HEIGHT: f64 = 330.0;
const AXIS: f64 = 46.0;
const LEGEND: f64 = 18.0;
const SIZE: f64 = 12.0;

impl Roofline {
    pub(crate) fn draw(self) -> Figure {
        let points = || self.panels.iter().flat_map(|panel| &panel.points);
        let ridge = |roof: &Roof| roof.flops / roof.bytes;
        let x = decades(points().map(|p| p.intensity).chain(self.roofs.iter().map(ridge))).on(LEFT, RIGHT);
        let speeds = decades(points().map(|p| p.speed / 1e12).chain(self.roofs.iter().map(|roof| roof.flops / 1e12)));
        let panel = HEAD + HEIGHT + AXIS;
        let legend = panel * self.panels.len() as f64 + 4.0;
        let mut about = vec![];
        for panel in &self.panels {
            let told = panel.points.iter().map(|p| {
                let how = if p.predicted { ", predicted" } else { "" };
                let series = self.series.get(p.series).copied().unwrap_or_default();
                format!("{} {series}{how}: {:.3} TFLOP/s at {:.1} FLOP a byte", p.label, p.speed / 1e12, p.intensity)
            });
            about.push(format!("{}: {}.", panel.heading, told.collect::<Vec<_>>().join("; ")));
        }
        let entries = self.entries();
        let drawing = html! {
            @for (n, each) in self.panels.iter().enumerate() {
                @let top = n as f64 * panel + HEAD;
                text class="heading" x="0" y=(px(top - 22.0)) { (fit(&each.heading, WIDE, 12.5)) }
                text class="quiet" x="0" y=(px(top - 7.0)) { (fit(&each.note, WIDE, 11.5)) }
                (plot(each, &self.roofs, &x, &speeds.on(top + HEIGHT, top)))
            }
            @for (n, (sign, text)) in entries.iter().enumerate() {
                @let y = legend + n as f64 * LEGEND;
                (sign.draw(LEFT + 15.0, y))
                text class="label" x=(px(LEFT + 38.0)) y=(px(y + 4.0)) { (fit(text, WIDE - LEFT - 40.0, SIZE)) }
            }
        };
        let height = legend + entries.len() as f64 * LEGEND;
        Figure { name: self.name, title: self.title, about: about.join(" "), width: WIDE, height, drawing }
    }

    /// The legend: the roofs, and of each series what there is.
    fn entries(&self) -> Vec<(Sign, String)> {
        let roofs = self.roofs.iter().enumerate().map(|(n, roof)| (Sign::Roof(n), roof.label.clone()));
        let there = |series: usize, predicted: bool| {
            self.panels.iter().flat_map(|panel| &panel.points).any(|p| p.series == series && p.predicted == predicted)
        };
        let all = self.series.iter().enumerate().flat_map(|(n, name)| [(n, *name, false), (n, *name, true)]);
        let points = all.filter(|(n, _, predicted)| there(*n, *predicted)).map(|(n, name, predicted)| {
            let how = if predicted { "predicted, not measured" } else { "measured" };
            (Sign::Point(n, predicted), format!("{name}, {how}; in percent: of what the roof allows"))
        });
        roofs.chain(points).collect()
    }
}

/// What stands before a line of the legend.
enum Sign {
    Roof(usize),
    Point(usize, bool),
}

impl Sign {
    fn draw(&self, x: f64, y: f64) -> Markup {
        match self {
            Sign::Roof(n) => html! {
                line class=(roof_class(*n)) x1=(px(x - 15.0)) x2=(px(x + 15.0)) y1=(px(y)) y2=(px(y)) {}
            },
            Sign::Point(series, predicted) => shape(*series, *predicted, x, y),
        }
    }
}

fn roof_class(n: usize) -> &'static str {
    if n == 0 { "roof" } else { "reference" }
}

fn shape(series: usize, predicted: bool, x: f64, y: f64) -> Markup {
    if predicted { hollow(series, x, y) } else { marker(series, x, y) }
}

/// Whole powers of ten around these values, as their logarithms.
fn decades(values: impl Iterator<Item = f64>) -> Scale {
    let logs = values.filter(|v| v.is_finite() && *v > 0.0).map(f64::log10);
    let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high { Scale::new(0.0, 3.0) } else { Scale::new((low - 0.05).floor(), (high + 0.05).ceil()) }
}

/// A power of ten as people write it.
fn decade(log: f64) -> String {
    match log as i32 {
        power @ 0..=4 => 10i32.pow(power as u32).to_string(),
        power @ -3..=-1 => format!("{:.*}", power.unsigned_abs() as usize, 10f64.powf(log)),
        power => ten_to(power),
    }
}

fn plot(panel: &Panel, roofs: &[Roof], x: &Scale, y: &Scale) -> Markup {
    let whole = |scale: &Scale| (scale.low as i32..=scale.high as i32).map(f64::from).collect::<Vec<_>>();
    let (top, bottom) = (y.at(y.high), y.at(y.low));
    let places: Vec<[f64; 2]> =
        panel.points.iter().map(|p| [x.at(p.intensity.log10()), y.at((p.speed / 1e12).log10())]).collect();
    let texts: Vec<&str> = panel.points.iter().map(|p| p.label.as_str()).collect();
    let labels = place(&places, &texts, [LEFT + 2.0, top + 2.0, RIGHT - 2.0, bottom - 2.0]);
    html! {
        @for tick in whole(y) {
            line class="grid" x1=(px(LEFT)) x2=(px(RIGHT)) y1=(px(y.at(tick))) y2=(px(y.at(tick))) {}
            text class="tick" x=(px(LEFT - 6.0)) y=(px(y.at(tick) + 4.0)) text-anchor="end" { (decade(tick)) }
        }
        @for tick in whole(x) {
            line class="grid" x1=(px(x.at(tick))) x2=(px(x.at(tick))) y1=(px(top)) y2=(px(bottom)) {}
            text class="tick" x=(px(x.at(tick))) y=(px(bottom + 15.0)) text-anchor="middle" { (decade(tick)) }
        }
        line class="axis" x1=(px(LEFT)) x2=(px(RIGHT)) y1=(px(bottom)) y2=(px(bottom)) {}
        text class="quiet" x=(px((LEFT + RIGHT) / 2.0)) y=(px(bottom + 31.0)) text-anchor="middle" { "FLOP a byte, each tensor read or written once" }
        text class="quiet" transform=(format!("translate(11 {}) rotate(-90)", px((top + bottom) / 2.0))) text-anchor="middle" { "TFLOP/s" }
        @for (n, roof) in roofs.iter().enumerate() {
            polyline class=(roof_class(n)) points=(outline(roof, x, y)) {}
        }
        @for (at, label) in places.iter().zip(&labels).filter(|(_, label)| label.far) {
            line class="leader" x1=(px(at[0])) y1=(px(at[1])) x2=(px(label.nearest(*at)[0])) y2=(px(label.nearest(*at)[1])) {}
        }
        @for (point, at) in panel.points.iter().zip(&places) { g class="point" { (shape(point.series, point.predicted, at[0], at[1])) } }
        @for (text, label) in texts.iter().zip(&labels) {
            text class="label" x=(px(label.area[0])) y=(px(label.area[3] - 3.0)) { (text) }
        }
    }
}

/// From the copies' slope to the products' level, within the axes.
fn outline(roof: &Roof, x: &Scale, y: &Scale) -> String {
    let level = (roof.flops / 1e12).log10();
    // On the slope, log speed = log intensity + log of bytes a second.
    let slope = (roof.bytes / 1e12).log10();
    let begin = if x.low + slope < y.low { [y.low - slope, y.low] } else { [x.low, x.low + slope] };
    let corners = [begin, [level - slope, level], [x.high, level]];
    corners.map(|[h, v]| format!("{},{}", px(x.at(h)), px(y.at(v)))).join(" ")
}

/// Where a label is: left, top, right and bottom.
struct Label {
    area: [f64; 4],
    /// Whether it is so far from its point that a line has to join them.
    far: bool,
}

impl Label {
    /// Where it is nearest to a point.
    fn nearest(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, top, right, bottom] = self.area;
        [x.clamp(left, right), y.clamp(top, bottom)]
    }
}

/// How much of one another two areas cover.
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |low: usize| (a[low + 2].min(b[low + 2]) - a[low].max(b[low])).max(0.0);
    side(0) * side(1)
}

/// A place for each label: as near its point as can be, within `bounds`, beside all points and all labels before it.
fn place(points: &[[f64; 2]], texts: &[&str], bounds: [f64; 4]) -> Vec<Label> {
    const MARK: f64 = 6.0;
    let marks: Vec<[f64; 4]> = points.iter().map(|p| [p[0] - MARK, p[1] - MARK, p[0] + MARK, p[1] + MARK]).collect();
    let mut labels: Vec<Label> = Vec::new();
    for (point, text) in points.iter().zip(texts) {
        let size = [width(text, SIZE) + 6.0, 15.0];
        let taken: Vec<[f64; 4]> = marks.iter().copied().chain(labels.iter().map(|label| label.area)).collect();
        let badness = |area: &[f64; 4]| {
            let inside = size[0] * size[1] - overlap(area, &bounds);
            10.0 * inside.max(0.0) + taken.iter().map(|other| overlap(area, other)).sum::<f64>()
        };
        let candidates = (0..12).flat_map(|ring| around(*point, size, MARK + 2.0 + 9.0 * f64::from(ring)).map(|a| (ring, a)));
        let best = candidates.map(|(ring, area)| (badness(&area), ring, area));
        let best = best.reduce(|best, next| if next.0 < best.0 - 1e-9 { next } else { best });
        labels.extend(best.map(|(_, ring, area)| Label { area, far: ring > 0 }));
    }
    labels
}

/// Eight areas of that size around a point, so far from it.
fn around([x, y]: [f64; 2], [wide, high]: [f64; 2], gap: f64) -> [[f64; 4]; 8] {
    let near = gap * 0.7;
    let area = |left: f64, top: f64| [left, top, left + wide, top + high];
    let (middle, centre) = (y - high / 2.0, x - wide / 2.0);
    [
        area(x + gap, middle),
        area(x - gap - wide, middle),
        area(centre, y + gap),
        area(centre, y - gap - high),
        area(x + near, y + near),
        area(x - near - wide, y + near),
        area(x + near, y - near - high),
        area(x - near - wide, y - near - high),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cover_neither_each_other_nor_points() {
        // Twelve points within some pixels of each other, and a corner.
        let mut points: Vec<[f64; 2]> =
            (0..12).map(|n| [300.0 + f64::from(n % 4) * 5.0, 200.0 + f64::from(n / 4) * 4.0]).collect();
        points.push([655.0, 2.0]);
        let texts: Vec<String> = (0..13).map(|n| format!("experts backward {n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let bounds = [0.0, 0.0, 660.0, 400.0];
        let labels = place(&points, &texts, bounds);
        assert_eq!(labels.len(), points.len());
        for (n, label) in labels.iter().enumerate() {
            let area = label.area;
            assert!(area[0] >= 0.0 && area[1] >= 0.0 && area[2] <= 660.0 && area[3] <= 400.0, "{area:?}");
            assert!(labels[..n].iter().all(|other| overlap(&area, &other.area) == 0.0), "{n}");
            assert!(points.iter().all(|p| overlap(&area, &[p[0] - 4.0, p[1] - 4.0, p[0] + 4.0, p[1] + 4.0]) == 0.0), "{n}");
        }
    }

    #[test]
    fn a_roof_bends_where_both_ceilings_meet() {
        let roof = Roof { label: String::new(), flops: 1e14, bytes: 1e12 };
        let (x, y) = (Scale::new(0.0, 3.0).on(0.0, 300.0), Scale::new(0.0, 3.0).on(300.0, 0.0));
        // 100 TFLOP/s from 100 FLOP a byte on; below 1 TFLOP/s at 1 FLOP a byte.
        assert_eq!(outline(&roof, &x, &y), "0,300 200,100 300,100");
        assert_eq!([-7.0, -3.0, -1.0, 0.0, 3.0].map(decade), ["10⁻⁷", "0.001", "0.1", "1", "1000"]);
    }
}
