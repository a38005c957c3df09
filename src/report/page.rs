//! The page around the sections.

use super::plot::{Figure, PALETTE, STYLE};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("page.css");

/// A part of the page with a heading of its own.
pub(super) struct Section {
    /// What the page's own links call it.
    pub(super) id: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    /// What follows the heading.
    pub(super) body: Markup,
}

/// A whole report.
pub(super) struct Page {
    /// Of what it is a report.
    pub(super) title: String,
    /// What stands above the title.
    pub(super) over: String,
    /// What stands below it.
    pub(super) lead: Markup,
    /// What is to be known before anything else is read.
    pub(super) warnings: Vec<Markup>,
    /// The rest.
    pub(super) sections: Vec<Section>,
}

/// The drawings of a report, each also a file of its own.
#[derive(Default)]
pub(super) struct Figures(Vec<Figure>);

impl Figures {
    /// A drawing with its caption, for the page.
    pub(super) fn show(&mut self, mut figure: Figure, note: &str) -> Markup {
        let taken = |name: &str| self.0.iter().any(|other| other.name == name);
        if taken(&figure.name) {
            let free = (2..).map(|n| format!("{}-{n}", figure.name)).find(|name| !taken(name));
            figure.name = free.unwrap_or_default();
        }
        let shown = html! {
            figure {
                figcaption { b { (figure.title) } @if !note.is_empty() { span { (note) } } }
                (figure.inline())
            }
        };
        self.0.push(figure);
        shown
    }

    /// Removes the drawings of an earlier report; files of others stay.
    fn clear_others(&self, drawings: &Path) -> Result<()> {
        let fault = |e: std::io::Error| Error::file(drawings, e);
        for entry in std::fs::read_dir(drawings).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_ours = |name: &str| self.0.iter().any(|figure| figure.name == name);
            let is_stale = name.strip_suffix(".svg").is_some_and(|name| !is_ours(name));
            if is_stale && std::fs::read_to_string(&path).is_ok_and(|text| Figure::wrote(&text)) {
                std::fs::remove_file(&path).map_err(|e| Error::file(&path, e))?;
            }
        }
        Ok(())
    }
}

/// A table that scrolls within itself where it is wider than the page. The caption names it.
pub(super) fn table(caption: &str, note: &str, rows: Markup) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { span { b { (caption) } @if !note.is_empty() { " " (note) } } }
                (rows)
            }
        }
    }
}

impl Page {
    /// Writes `report.html` and, in `figures` beside it, every drawing.
    pub(super) fn write(&self, figures: &Figures, folder: &Path) -> Result<PathBuf> {
        let drawings = folder.join("figures");
        std::fs::create_dir_all(&drawings).map_err(|e| Error::file(&drawings, e))?;
        for figure in &figures.0 {
            write_atomically(&drawings.join(format!("{}.svg", figure.name)), |file| file.write_all(figure.file().as_bytes()))?;
        }
        figures.clear_others(&drawings)?;
        let path = folder.join("report.html");
        write_atomically(&path, |file| file.write_all(self.render().into_string().as_bytes()))?;
        Ok(path)
    }

    fn render(&self) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="generator" content={ "fair-moe " (env!("CARGO_PKG_VERSION")) };
                    title { (self.title) }
                    style { (PreEscaped(PALETTE)) (PreEscaped(STYLE)) (PreEscaped(PAGE)) }
                }
                body {
                    header {
                        p class="over" { (self.over) }
                        h1 { (self.title) }
                        (self.lead)
                        nav aria-label="Contents" {
                            ul { @for section in &self.sections { li { a href={ "#" (section.id) } { (section.title) } } } }
                        }
                        (self.warnings())
                    }
                    main {
                        @for section in &self.sections {
                            section id=(section.id) aria-labelledby={ (section.id) "-heading" } {
                                h2 id={ (section.id) "-heading" } { (section.title) }
                                (section.body)
                            }
                        }
                    }
                    footer {
                        p {
                            "For research. Neither this report nor the model is made for decisions about a patient. "
                            "Written by fair-moe " (env!("CARGO_PKG_VERSION")) "; every figure is also an SVG file in the folder "
                            code { "figures" } " beside this page."
                        }
                    }
                }
            }
        }
    }

    fn warnings(&self) -> Markup {
        html! {
            @if self.warnings.is_empty() {
                section class="warnings none" aria-labelledby="warnings" {
                    h2 id="warnings" { "Nothing to warn of" }
                    p { "No group is too small to be judged, no figure is undefined, and the model does better than chance." }
                }
            } @else {
                section class="warnings" aria-labelledby="warnings" {
                    h2 id="warnings" { "Before you read on" }
                    ul { @for warning in &self.warnings { li { (warning) } } }
                }
            }
        }
    }
}
