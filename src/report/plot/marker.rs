//! What tells one series from another: a colour, a dash and a shape.

use super::px;
use maud::{Markup, html};

/// How many series can be told apart; the next looks like the first.
const SERIES: usize = 6;

/// The class of a series in the stylesheet.
pub(super) fn class(series: usize) -> String {
    format!("s{}", series % SERIES)
}

/// The shape of a series, some 9 across, around (x, y).
pub(super) fn marker(series: usize, x: f64, y: f64) -> Markup {
    drawn(series, format!("dot {}", class(series)), x, y)
}

/// The same with nothing within its border.
#[cfg(feature = "cli")]
pub(super) fn hollow(series: usize, x: f64, y: f64) -> Markup {
    drawn(series, format!("hollow {}", class(series)), x, y)
}

fn drawn(series: usize, class: String, x: f64, y: f64) -> Markup {
    let path = |corners: &[(f64, f64)]| {
        let corners: Vec<String> = corners.iter().map(|(dx, dy)| format!("{},{}", px(x + dx), px(y + dy))).collect();
        html! { polygon class=(class) points=(corners.join(" ")) {} }
    };
    match series % SERIES {
        0 => html! { circle class=(class) cx=(px(x)) cy=(px(y)) r="4.5" {} },
        1 => path(&[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)]),
        2 => path(&[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)]),
        3 => path(&[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)]),
        4 => path(&[(0.0, 5.0), (5.0, -4.0), (-5.0, -4.0)]),
        _ => path(&[
            (-4.5, -1.6),
            (-1.6, -1.6),
            (-1.6, -4.5),
            (1.6, -4.5),
            (1.6, -1.6),
            (4.5, -1.6),
            (4.5, 1.6),
            (1.6, 1.6),
            (1.6, 4.5),
            (-1.6, 4.5),
            (-1.6, 1.6),
            (-4.5, 1.6),
        ]),
    }
}

/// The marker of a series beside text.
pub(in crate::report) fn key(series: usize) -> Markup {
    html! { svg class="figure key" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true" { (marker(series, 6.0, 6.0)) } }
}
