//! What became of every key of a file, and of every parameter of a model.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// What reading a model's parameters from a file came to. Each key of the file stands under `matched`, `wrong_shape`,
/// `buffers` or `unused`; each parameter of the model under `matched`, `missing` or `wrong_shape`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The parameters that were read, by the model's name, each with the file's keys that it was read from.
    pub matched: BTreeMap<String, Vec<String>>,
    /// The parameters that the file does not hold, and what they start from instead.
    pub missing: BTreeMap<String, Instead>,
    /// The parameters that the file holds in another shape.
    pub wrong_shape: BTreeMap<String, WrongShape>,
    /// Keys of constants that a model needs nobody to tell: sizes, masks, positions.
    pub buffers: Vec<String>,
    /// Keys that are nothing of the model.
    pub unused: Vec<String>,
}

/// What a parameter starts from that is not in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instead {
    /// Random values, or the constant that it always starts from.
    Fresh,
    /// A copy of another parameter of the file, for every expert the same.
    Copy(String),
    /// Nothing: a model cannot be without it.
    Nothing,
}

/// A parameter that has another shape in the file than in the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongShape {
    /// The file's keys.
    pub keys: Vec<String>,
    /// The model's.
    pub expected: Vec<usize>,
    /// The file's.
    pub found: Vec<usize>,
    /// What it starts from.
    pub instead: Instead,
}

impl LoadReport {
    /// The parameters of the model that were not read.
    pub fn lacks(&self) -> impl Iterator<Item = &str> {
        self.missing.keys().chain(self.wrong_shape.keys()).map(String::as_str)
    }

    /// Checks that the file has all that a model cannot be without.
    ///
    /// # Errors
    /// Lists what is missing or of a wrong shape.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let missing = self.missing.iter().filter(|(_, instead)| **instead == Instead::Nothing).map(|(name, _)| name.clone());
        let wrong = self.wrong_shape.iter().filter(|(_, w)| w.instead == Instead::Nothing);
        let wrong = wrong.map(|(name, w)| format!("{name} must be {:?}, but is {:?}", w.expected, w.found));
        let faults = [("missing", missing.collect::<Vec<_>>()), ("of another shape", wrong.collect())];
        let faults: Vec<String> =
            faults.iter().filter(|(_, all)| !all.is_empty()).map(|(what, all)| format!("{what}: {}", some(all))).collect();
        if faults.is_empty() {
            return Ok(());
        }
        Err(Error::file(path, format!("this file does not fit the model; {}", faults.join("; "))))
    }
}

impl fmt::Display for LoadReport {
    /// A line for each kind of finding, and one for each parameter that was not read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<12} {:>5} parameters", "matched", self.matched.len())?;
        writeln!(f, "  {:<12} {:>5} parameters", "missing", self.missing.len())?;
        for (name, instead) in &self.missing {
            writeln!(f, "  {:<18} {name}: {instead}", "")?;
        }
        writeln!(f, "  {:<12} {:>5} parameters", "wrong shape", self.wrong_shape.len())?;
        for (name, WrongShape { expected, found, instead, .. }) in &self.wrong_shape {
            writeln!(f, "  {:<18} {name}: must be {expected:?}, but is {found:?}; {instead}", "")?;
        }
        for (what, keys) in [("constants", &self.buffers), ("unused", &self.unused)] {
            write!(f, "  {what:<12} {:>5} keys", keys.len())?;
            writeln!(f, "{}{}", if keys.is_empty() { "" } else { ": " }, some(keys))?;
        }
        Ok(())
    }
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instead::Fresh => f.write_str("starts fresh"),
            Instead::Copy(name) => write!(f, "starts as a copy of {name}"),
            Instead::Nothing => f.write_str("nothing can stand there instead"),
        }
    }
}

/// The first of them, and how many more there are.
fn some(all: &[String]) -> String {
    const SHOWN: usize = 8;
    // A hostile file's names may hold what a terminal obeys.
    let shown: Vec<String> = all.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect();
    let more = if all.len() > SHOWN { format!(" and {} more", all.len() - SHOWN) } else { String::new() };
    shown.join(", ") + &more
}
