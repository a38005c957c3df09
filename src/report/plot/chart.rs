//! Lines over two axes.

use super::marker::{class, marker};
use super::scale::{anchor, titled};
use super::{Figure, Scale, WIDTH, fit, px};
use maud::{Markup, html};

/// One line.
pub(in crate::report) struct Line {
    /// What it is called in the legend.
    pub(in crate::report) label: String,
    /// Its points, x and y, in the order in which they are joined.
    pub(in crate::report) points: Vec<[f64; 2]>,
    /// Which series it is.
    pub(in crate::report) series: usize,
    /// Whether each point is marked, or only a few along the way.
    pub(in crate::report) marked: bool,
}

/// The whole figure.
pub(in crate::report) struct Chart {
    /// Its name.
    pub(in crate::report) name: String,
    /// What it shows.
    pub(in crate::report) title: String,
    /// What there is to see.
    pub(in crate::report) about: String,
    /// What the axes measure, x and y.
    pub(in crate::report) axes: [&'static str; 2],
    /// The axes, x and y.
    pub(in crate::report) scales: [Scale; 2],
    /// How high the plot is.
    pub(in crate::report) height: f64,
    /// Whether y = x is drawn, dashed.
    pub(in crate::report) diagonal: bool,
    /// The lines.
    pub(in crate::report) lines: Vec<Line>,
}

const LEFT: f64 = 44.0;
const TOP: f64 = 8.0;
const LEGEND: f64 = 18.0;
/// Marks along a line whose points are not all marked.
const ALONG: usize = 4;

impl Chart {
    pub(in crate::report) fn draw(self) -> Figure {
        let bottom = TOP + self.height;
        let [x, y] = [self.scales[0].on(LEFT, WIDTH - 8.0), self.scales[1].on(bottom, TOP)];
        let (across, up) = (x.ticks(5.0), y.ticks(self.height / 50.0));
        let (legend, legends) = (bottom + 46.0, self.lines.len() > 1);
        let drawing = html! {
            @for (value, label) in &up.at {
                line class="grid" x1=(px(LEFT)) x2=(px(WIDTH - 8.0)) y1=(px(y.at(*value))) y2=(px(y.at(*value))) {}
                text class="tick" x=(px(LEFT - 6.0)) y=(px(y.at(*value) + 4.0)) text-anchor="end" { (label) }
            }
            @for (value, label) in &across.at {
                line class="grid" x1=(px(x.at(*value))) x2=(px(x.at(*value))) y1=(px(TOP)) y2=(px(bottom)) {}
                text class="tick" x=(px(x.at(*value))) y=(px(bottom + 15.0)) text-anchor=(anchor(x.at(*value))) { (label) }
            }
            @if self.diagonal { (diagonal(&x, &y)) }
            line class="axis" x1=(px(LEFT)) x2=(px(WIDTH - 8.0)) y1=(px(bottom)) y2=(px(bottom)) {}
            text class="quiet" x=(px((LEFT + WIDTH - 8.0) / 2.0)) y=(px(bottom + 31.0)) text-anchor="middle" { (titled(self.axes[0], across.power)) }
            text class="quiet" transform=(format!("translate(11 {}) rotate(-90)", px((TOP + bottom) / 2.0))) text-anchor="middle" { (titled(self.axes[1], up.power)) }
            @for line in &self.lines { (drawn(line, &x, &y)) }
            @if legends { @for (n, line) in self.lines.iter().enumerate() { (entry(line, legend + n as f64 * LEGEND)) } }
        };
        let height = legend - 8.0 + if legends { self.lines.len() as f64 * LEGEND } else { 0.0 };
        Figure { name: self.name, title: self.title, about: self.about, width: WIDTH, height, drawing }
    }
}

fn diagonal(x: &Scale, y: &Scale) -> Markup {
    let (low, high) = (x.low.max(y.low), x.high.min(y.high));
    html! {
        @if low < high {
            line class="reference" x1=(px(x.at(low))) y1=(px(y.at(low))) x2=(px(x.at(high))) y2=(px(y.at(high))) {}
        }
    }
}

fn drawn(line: &Line, x: &Scale, y: &Scale) -> Markup {
    let mut places: Vec<[f64; 2]> = Vec::new();
    for (n, point) in line.points.iter().enumerate() {
        let place = [x.at(point[0]), y.at(point[1])];
        // Points that no eye tells apart would only make the file large.
        let seen = places.last().is_none_or(|last| (last[0] - place[0]).hypot(last[1] - place[1]) > 0.4);
        if seen || line.marked || n + 1 == line.points.len() {
            places.push(place);
        }
    }
    let path: Vec<String> = places.iter().map(|p| format!("{},{}", px(p[0]), px(p[1]))).collect();
    let every = if line.marked { 1 } else { (places.len() / (ALONG + 1)).max(1) };
    let shown = |n: usize| line.marked || (n > 0 && n + 1 < places.len());
    html! {
        polyline class={ "line " (class(line.series)) } points=(path.join(" ")) {}
        @for (n, place) in places.iter().enumerate().filter(|(n, _)| n % every == 0 && shown(*n)) {
            @let _ = n;
            (marker(line.series, place[0], place[1]))
        }
    }
}

/// A line of the legend.
fn entry(line: &Line, y: f64) -> Markup {
    html! {
        line class={ "line " (class(line.series)) } x1=(px(LEFT)) x2=(px(LEFT + 30.0)) y1=(px(y)) y2=(px(y)) {}
        (marker(line.series, LEFT + 15.0, y))
        text class="label" x=(px(LEFT + 38.0)) y=(px(y + 4.0)) { (fit(&line.label, WIDTH - LEFT - 40.0, 12.0)) }
    }
}
