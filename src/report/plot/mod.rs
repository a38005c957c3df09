//! Drawings for the report: SVG that needs no script, no font file and no colour to be read.
//!
//! Series differ by colour, by dash and by marker at once, and every figure says in its title and description what it shows. Lengths
//! are in the figure's own units, of which a figure is [`WIDTH`] wide unless what it shows needs more: a phone's width, so that text
//! keeps its size there.

mod chart;
mod heat;
mod marker;
#[cfg(feature = "cli")]
mod roofline;
mod rows;
mod scale;

pub(super) use chart::{Chart, Line};
pub(super) use heat::{Heat, HeatRow};
pub(super) use marker::key;
#[cfg(feature = "cli")]
pub(crate) use roofline::{Panel, Point, Roof, Roofline};
pub(super) use rows::{Mark, Rows, Section, Shape};
pub(super) use scale::Scale;

use maud::{Markup, PreEscaped, html};

/// How wide a figure is.
const WIDTH: f64 = 340.0;
/// How much a figure file is wider than its drawing, each side, and how much its title takes above it.
const MARGIN: f64 = 12.0;
const TITLE: f64 = 24.0;

/// The colours, light and dark; in the page and in every figure file.
pub(super) const PALETTE: &str = include_str!("../palette.css");
/// What a drawing looks like.
pub(super) const STYLE: &str = include_str!("../figure.css");

/// One drawing.
pub(crate) struct Figure {
    /// Its name among the report's figures, and its file's without the ending: small letters, digits and dashes.
    pub(super) name: String,
    /// What it shows.
    pub(super) title: String,
    /// What there is to see, for whoever does not see it.
    pub(super) about: String,
    width: f64,
    height: f64,
    drawing: Markup,
}

impl Figure {
    /// The drawing within a page that has [`PALETTE`] and [`STYLE`].
    pub(super) fn inline(&self) -> Markup {
        let view = format!("0 0 {} {}", px(self.width), px(self.height));
        let [title, about] = ["title", "about"].map(|part| format!("{}-{part}", self.name));
        html! {
            svg class="figure" viewBox=(view) width=(px(self.width)) height=(px(self.height)) role="img"
                aria-labelledby={ (title) " " (about) } {
                title id=(title) { (self.title) }
                desc id=(about) { (self.about) }
                (self.drawing)
            }
        }
    }

    /// The drawing as a file of its own.
    pub(crate) fn file(&self) -> String {
        let (width, height) = (self.width + 2.0 * MARGIN, self.height + 2.0 * MARGIN + TITLE);
        let view = format!("{} {} {} {}", px(-MARGIN), px(-MARGIN - TITLE), px(width), px(height));
        let file = html! {
            svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox=(view) width=(px(width)) height=(px(height)) role="img"
                aria-labelledby="title about" {
                title id="title" { (self.title) }
                desc id="about" { (self.about) }
                style { (PreEscaped(PALETTE)) (PreEscaped(STYLE)) }
                rect class="ground" x=(px(-MARGIN)) y=(px(-MARGIN - TITLE)) width=(px(width)) height=(px(height)) {}
                text class="name" x="0" y="-10" { (fit(&self.title, self.width, 13.0)) }
                (self.drawing)
            }
        };
        file.into_string() + "\n"
    }

    /// Whether a file is such a drawing.
    pub(super) fn wrote(file: &str) -> bool {
        file.starts_with(r#"<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox=""#)
    }
}

/// A length to a hundredth, as short as it can be written.
fn px(length: f64) -> String {
    let hundredths = (length * 100.0).round() / 100.0;
    // No minus before a zero.
    format!("{}", hundredths + 0.0)
}

/// How wide a text is at this size, roughly: fonts differ.
fn width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | ' ' | '.' | ',' | ':' | '(' | ')' | '|' => 0.34,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.9,
        c if c.is_ascii_uppercase() => 0.68,
        c if c.is_ascii() => 0.57,
        _ => 0.9,
    };
    size * text.chars().map(em).sum::<f64>()
}

/// A text, cut where it would be too wide.
fn fit(text: &str, room: f64, size: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&kept, size) > room - size {
            kept.pop();
            break;
        }
    }
    kept.trim_end().to_owned() + "…"
}
