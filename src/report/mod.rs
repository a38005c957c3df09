//! Reports that people read: one page that needs nothing beside itself, and each of its figures as an SVG file.

mod compare;
mod input;
mod page;
pub(crate) mod plot;
mod sections;
mod warnings;
mod words;

pub use compare::compare;

use crate::error::{Error, Result};
use input::Model;
use maud::html;
use page::{Figures, Page};
use std::path::{Path, PathBuf};
use words::{model_name, thousands};

const METRICS: &str = "metrics.json";

/// Writes the report of every model in these folders, each a model's own or one that holds models' folders, such as a run's; and, of
/// several models, the page that compares them to `out`: without it to the first folder, or, if that is a model's own, to the
/// folder that it lies in. Returns the reports' paths.
///
/// # Errors
/// When a folder holds no model, or a report cannot be written.
pub fn write_all(folders: &[PathBuf], out: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut models = Vec::new();
    for folder in folders {
        let found = models_in(folder, 2)?;
        if found.is_empty() {
            return Err(Error::file(folder, format!("neither this folder nor one in it holds a {METRICS}")));
        }
        models.extend(found);
    }
    let mut pages = models.iter().map(|model| write(model)).collect::<Result<Vec<_>>>()?;
    if let (Some(first), [model, _, ..]) = (folders.first(), models.as_slice()) {
        let above = if first == model { first.join("..") } else { first.clone() };
        pages.push(compare(&models, out.unwrap_or(&above))?);
    }
    Ok(pages)
}

/// The folder itself if it is a model's, or those in it that are, down to so many levels.
fn models_in(folder: &Path, levels: usize) -> Result<Vec<PathBuf>> {
    if folder.join(METRICS).is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    if levels == 0 {
        return Ok(vec![]);
    }
    let bad = |e: std::io::Error| Error::file(folder, e);
    let entries = std::fs::read_dir(folder).map_err(bad)?.collect::<std::io::Result<Vec<_>>>().map_err(bad)?;
    let mut inner: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    inner.sort();
    let found = inner.iter().map(|folder| models_in(folder, levels - 1)).collect::<Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// Writes `report.html`, and its drawings in `figures`, to the folder of one model; returns the report's path.
///
/// Of the folder's files, `metrics.json` and `predictions.csv` must be there, and agree; `routing.json`, `log.jsonl`, `start.json` and
/// `settings.json` are told of where they are. The same files give the same bytes.
///
/// # Errors
/// When a file is missing that must be there, one cannot be read or is not what its name says, or the report cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf> {
    let model = Model::open(folder)?;
    let mut figures = Figures::default();
    let sections = sections::all(&model, &mut figures);
    let page = Page {
        title: format!("{}: how accurate, and how fair", model_name(&model.settings, &model.folder)),
        over: "Fairness report".into(),
        lead: html! {
            p class="lead" { "Glaucoma from images of the back of the eye, on " (thousands(model.metrics.samples)) " test images." }
        },
        warnings: warnings::of(&model),
        sections,
    };
    page.write(&figures, folder)
}
