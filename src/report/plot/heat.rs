//! Numbers in a grid, the larger the stronger their ground.

use super::{Figure, WIDTH, fit, px};
use maud::{Markup, html};

/// One row of numbers, or, without any, a heading.
pub(in crate::report) struct HeatRow {
    /// What it is of.
    pub(in crate::report) label: String,
    /// Its numbers, each with how it is written; none where there is no number.
    pub(in crate::report) cells: Vec<Option<(f64, String)>>,
}

/// The whole figure.
pub(in crate::report) struct Heat {
    /// Its name.
    pub(in crate::report) name: String,
    /// What it shows.
    pub(in crate::report) title: String,
    /// What there is to see.
    pub(in crate::report) about: String,
    /// What stands above the columns.
    pub(in crate::report) over: String,
    /// What each column is called.
    pub(in crate::report) columns: Vec<String>,
    /// The rows.
    pub(in crate::report) rows: Vec<HeatRow>,
}

const LEFT: f64 = 96.0;
const HEAD: f64 = 36.0;
const ROW: f64 = 24.0;
/// The narrowest and the widest cell.
const CELL: [f64; 2] = [24.0, 60.0];

impl Heat {
    pub(in crate::report) fn draw(self) -> Figure {
        let cell = ((WIDTH - LEFT) / self.columns.len().max(1) as f64).clamp(CELL[0], CELL[1]);
        let width = (LEFT + cell * self.columns.len() as f64).max(WIDTH);
        let largest = self.rows.iter().flat_map(|r| r.cells.iter().flatten()).map(|(v, _)| *v).fold(0.0, f64::max);
        let drawing = html! {
            text class="quiet" x=(px(LEFT)) y="12" { (fit(&self.over, width - LEFT, 11.5)) }
            @for (n, column) in self.columns.iter().enumerate() {
                text class="tick" x=(px(LEFT + (n as f64 + 0.5) * cell)) y="29" text-anchor="middle" { (column) }
            }
            @for (n, row) in self.rows.iter().enumerate() { (drawn(row, largest, cell, HEAD + n as f64 * ROW)) }
        };
        let height = HEAD + self.rows.len() as f64 * ROW;
        Figure { name: self.name, title: self.title, about: self.about, width, height, drawing }
    }
}

fn drawn(row: &HeatRow, largest: f64, cell: f64, y: f64) -> Markup {
    let class = if row.cells.is_empty() { "heading" } else { "label" };
    html! {
        text class=(class) x="0" y=(px(y + 16.0)) { (fit(&row.label, LEFT - 8.0, 12.0)) }
        @for (n, number) in row.cells.iter().enumerate() {
            @let x = LEFT + n as f64 * cell;
            @match number {
                Some((value, text)) => {
                    rect class="heat" x=(px(x + 1.0)) y=(px(y + 1.0)) width=(px(cell - 2.0)) height=(px(ROW - 2.0))
                        fill-opacity=(px(if largest > 0.0 { (value / largest).clamp(0.0, 1.0) } else { 0.0 })) {}
                    text class="number" x=(px(x + cell / 2.0)) y=(px(y + 16.0)) text-anchor="middle" { (text) }
                }
                None => { text class="number" x=(px(x + cell / 2.0)) y=(px(y + 16.0)) text-anchor="middle" { "–" } }
            }
        }
    }
}
