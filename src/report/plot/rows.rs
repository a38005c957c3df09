//! Values with their intervals under one another, along one axis.

use super::marker::{class, marker};
use super::scale::{anchor, titled};
use super::{Figure, Scale, WIDTH, fit, px, width};
use maud::{Markup, html};

/// What stands at a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::report) enum Shape {
    /// A marker, on an axis that may begin anywhere.
    Dot,
    /// A bar from zero.
    Bar,
}

/// One value.
pub(in crate::report) struct Mark {
    /// Whose it is.
    pub(in crate::report) label: String,
    /// The value; none where it is undefined.
    pub(in crate::report) value: Option<f64>,
    /// Its interval, where there is one.
    pub(in crate::report) interval: Option<[f64; 2]>,
    /// Both in words.
    pub(in crate::report) text: String,
    /// Which series it belongs to.
    pub(in crate::report) series: usize,
}

/// Values under one heading, or under none.
pub(in crate::report) struct Section {
    /// The heading; may be empty.
    pub(in crate::report) heading: String,
    /// The values.
    pub(in crate::report) marks: Vec<Mark>,
}

/// The whole figure.
pub(in crate::report) struct Rows {
    /// Its name, title and description.
    pub(in crate::report) name: String,
    /// What it shows.
    pub(in crate::report) title: String,
    /// What the axis measures.
    pub(in crate::report) axis: String,
    /// The axis.
    pub(in crate::report) scale: Scale,
    /// What stands at the values.
    pub(in crate::report) shape: Shape,
    /// A value that the others are compared with: a dashed line.
    pub(in crate::report) reference: Option<f64>,
    /// The rows.
    pub(in crate::report) sections: Vec<Section>,
}

const HEADING: f64 = 22.0;
const ROW: f64 = 38.0;
const SIZE: f64 = 12.0;

impl Rows {
    pub(in crate::report) fn draw(self) -> Figure {
        let scale = self.scale.on(10.0, WIDTH - 10.0);
        let (mut y, mut rows, mut told) = (0.0, Vec::new(), Vec::new());
        for section in &self.sections {
            if !section.heading.is_empty() {
                rows.push(html! { text class="heading" x="0" y=(px(y + 15.0)) { (fit(&section.heading, WIDTH, 12.5)) } });
                y += HEADING;
            }
            for mark in &section.marks {
                rows.push(row(mark, self.shape, &scale, y));
                told.push(format!(
                    "{}{}{}: {}",
                    section.heading,
                    if section.heading.is_empty() { "" } else { ", " },
                    mark.label,
                    mark.text
                ));
                y += ROW;
            }
        }
        let ticks = scale.ticks(5.0);
        let drawing = html! {
            @for (value, _) in &ticks.at { (upright("grid", scale.at(*value), 0.0, y)) }
            @if let Some(value) = self.reference.filter(|v| (scale.low..=scale.high).contains(v)) {
                (upright("reference", scale.at(value), 0.0, y))
            }
            @for row in rows { (row) }
            line class="axis" x1=(px(scale.at(scale.low))) x2=(px(scale.at(scale.high))) y1=(px(y)) y2=(px(y)) {}
            @for (value, label) in &ticks.at {
                text class="tick" x=(px(scale.at(*value))) y=(px(y + 14.0)) text-anchor=(anchor(scale.at(*value))) { (label) }
            }
            text class="quiet" x=(px(WIDTH / 2.0)) y=(px(y + 31.0)) text-anchor="middle" { (titled(&self.axis, ticks.power)) }
        };
        Figure { name: self.name, title: self.title, about: told.join("; ") + ".", width: WIDTH, height: y + 36.0, drawing }
    }
}

fn upright(class: &str, x: f64, from: f64, to: f64) -> Markup {
    html! { line class=(class) x1=(px(x)) x2=(px(x)) y1=(px(from)) y2=(px(to)) {} }
}

/// The words of a value, and below them its drawing.
fn row(mark: &Mark, shape: Shape, scale: &Scale, y: f64) -> Markup {
    let (words, middle) = (y + 13.0, y + if shape == Shape::Bar { 24.0 } else { 22.0 });
    let room = WIDTH - width(&mark.text, SIZE) - 8.0;
    let series = class(mark.series);
    html! {
        text class="label" x="0" y=(px(words)) { (fit(&mark.label, room, SIZE)) }
        text class="label value" x=(px(WIDTH)) y=(px(words)) text-anchor="end" { (mark.text) }
        @if let Some(value) = mark.value {
            @let zero = scale.at(0.0);
            @if shape == Shape::Bar {
                rect class={ "bar " (series) } x=(px(zero.min(scale.at(value)))) y=(px(middle - 4.0))
                    width=(px((scale.at(value) - zero).abs().max(1.0))) height="8" {}
            }
            @if let Some([low, high]) = mark.interval {
                line class={ "whisker " (if shape == Shape::Bar { "" } else { &series }) }
                    x1=(px(scale.at(low))) x2=(px(scale.at(high))) y1=(px(middle)) y2=(px(middle)) {}
                @for end in [low, high] {
                    line class={ "whisker " (if shape == Shape::Bar { "" } else { &series }) }
                        x1=(px(scale.at(end))) x2=(px(scale.at(end))) y1=(px(middle - 4.0)) y2=(px(middle + 4.0)) {}
                }
            }
            @if shape == Shape::Dot { (marker(mark.series, scale.at(value), middle)) }
        }
    }
}
