//! Finding measured models under folders.

use crate::error::{Error, Result};
use crate::eval::Predictions;
use std::path::{Path, PathBuf};

/// A model: one run, or one for each seed.
pub(super) struct Model {
    pub name: String,
    pub runs: Vec<(PathBuf, Predictions)>,
}

/// How deep below a folder runs are looked for.
const DEEPEST: usize = 8;

/// Every measured model under these folders, in their order, those under one folder by name.
pub(super) fn find(folders: &[PathBuf]) -> Result<Vec<Model>> {
    let mut models: Vec<(PathBuf, Vec<PathBuf>)> = vec![];
    for folder in folders {
        let mut found = vec![];
        search(folder, 0, &mut found)?;
        if found.is_empty() {
            return Err(Error::file(folder, "neither this folder nor one in it holds a metrics.json and a predictions.csv"));
        }
        for run in found {
            let model = if is_seed(&run) { run.parent().map_or_else(|| run.clone(), Path::to_path_buf) } else { run.clone() };
            match models.iter_mut().find(|(known, _)| *known == model) {
                Some((_, runs)) if runs.contains(&run) => {}
                Some((_, runs)) => runs.push(run),
                None => models.push((model, vec![run])),
            }
        }
    }
    let names = names(&models.iter().map(|(model, _)| &**model).collect::<Vec<_>>());
    let read = |run: PathBuf| Predictions::read(&run.join("predictions.csv")).map(|predictions| (run, predictions));
    let model = |((_, runs), name): ((PathBuf, Vec<PathBuf>), String)| {
        let runs = runs.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        if let Some((other, _)) = runs.iter().find(|(_, predictions)| !predictions.same_samples(&runs[0].1)) {
            return Err(Error::file(other, format!("these are other samples than those of {}", runs[0].0.display())));
        }
        Ok(Model { name, runs })
    };
    models.into_iter().zip(names).map(model).collect()
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(folder, e);
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).map_err(failed)?.collect::<std::result::Result<_, _>>().map_err(failed)?;
    entries.sort_by_key(|entry| entry.file_name());
    if ["metrics.json", "predictions.csv"].iter().all(|name| folder.join(name).is_file()) {
        found.push(folder.to_path_buf());
    }
    for entry in entries {
        // A link is not followed: it could lead in a circle.
        if depth < DEEPEST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth + 1, found)?;
        }
    }
    Ok(())
}

/// Whether a run is one of several seeds.
fn is_seed(run: &Path) -> bool {
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("seed-").is_some_and(|seed| !seed.is_empty() && seed.bytes().all(|b| b.is_ascii_digit()))
}

/// The parts of the models' paths that tell them apart; of one model its folder's name.
fn names(models: &[&Path]) -> Vec<String> {
    let parts = |path: &Path| path.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>();
    let all: Vec<Vec<String>> = models.iter().map(|path| parts(path)).collect();
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    let is_shared = |i: &usize| all.iter().all(|path| path[*i] == all[0][*i]);
    let shared = (0..shortest.saturating_sub(1)).take_while(is_shared).count();
    all.iter().map(|path| path[shared..].join("/")).collect()
}
