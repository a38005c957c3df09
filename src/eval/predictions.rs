//! What a model said of each sample, and its table `predictions.csv`.

use crate::data::{ATTRIBUTES, GROUP_NAMES, Sample};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::metrics::{Answers, Attribute};
use std::path::Path;

/// What a model said of each sample of a split, and what is true of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// `[samples]` their files' names.
    pub files: Vec<String>,
    /// `[samples]` 0 or 1.
    pub label: Vec<u8>,
    /// `[samples]` probability of glaucoma.
    pub probability: Vec<f64>,
    /// `[samples]` for each of the [`ATTRIBUTES`]: each sample's group, or -1 where it is unknown.
    pub values: [Vec<i8>; 4],
}

impl Predictions {
    /// What was said of these samples.
    pub(crate) fn of(samples: &[Sample], probability: Vec<f64>) -> Self {
        Self {
            files: samples.iter().map(|s| s.file.clone()).collect(),
            label: samples.iter().map(|s| s.label).collect(),
            probability,
            values: std::array::from_fn(|a| samples.iter().map(|s| s.groups[a]).collect()),
        }
    }

    /// The groups of every attribute.
    pub fn attributes(&self) -> [Attribute<'_>; 4] {
        std::array::from_fn(|a| Attribute { name: ATTRIBUTES[a], groups: GROUP_NAMES[a], values: &self.values[a] })
    }

    /// All of it, with `attributes` as [`Predictions::attributes`] gives them.
    pub fn answers<'a>(&'a self, attributes: &'a [Attribute<'a>]) -> Answers<'a> {
        Answers { probability: &self.probability, label: &self.label, attributes }
    }

    /// Whether the other ones are of the same samples, so that both can be compared pair by pair.
    pub fn same_samples(&self, other: &Self) -> bool {
        self.files == other.files && self.label == other.label && self.values == other.values
    }

    /// Writes a table with the columns file, label, probability, and each attribute's.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| {
            let mut table = csv::Writer::from_writer(file);
            table.write_record(columns())?;
            for (i, file) in self.files.iter().enumerate() {
                let numbers = [self.label[i].to_string(), self.probability[i].to_string()];
                let groups = self.values.iter().map(|values| values[i].to_string());
                table.write_record([file.clone()].into_iter().chain(numbers).chain(groups))?;
            }
            table.flush()
        })
    }

    /// Reads such a table.
    ///
    /// # Errors
    /// When the file cannot be read or has other columns, or a line holds something else than such values.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |e: csv::Error| Error::file(path, e);
        let mut table = csv::Reader::from_path(path).map_err(failed)?;
        let found = table.headers().map_err(failed)?;
        if !found.iter().eq(columns()) {
            let (expected, found) = (columns().collect::<Vec<_>>().join(","), found.iter().collect::<Vec<_>>().join(","));
            return Err(Error::file(path, format!("the columns must be {expected}, but are {found}")));
        }
        let mut all = Self { files: vec![], label: vec![], probability: vec![], values: Default::default() };
        for (i, record) in table.records().enumerate() {
            let record = record.map_err(failed)?;
            all.push(&record).map_err(|why| Error::file(path, format!("line {}: {why}", i + 2)))?;
        }
        if all.files.is_empty() {
            return Err(Error::file(path, "this table holds no samples"));
        }
        Ok(all)
    }

    fn push(&mut self, record: &csv::StringRecord) -> std::result::Result<(), String> {
        let number = |column: usize, what: &str, least: f64, most: f64| {
            let text = record.get(column).unwrap_or_default();
            let number = text.parse::<f64>().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| format!("{what} must be a number from {least} to {most}, but is {text:?}"))
        };
        let whole = |column: usize, what: &str, least: f64, most: usize| {
            let value = number(column, what, least, most as f64)?;
            if value.fract() == 0.0 { Ok(value as i8) } else { Err(format!("{what} must be a whole number, but is {value}")) }
        };
        let (label, probability) = (whole(1, "label", 0.0, 1)?, number(2, "probability", 0.0, 1.0)?);
        for (a, values) in self.values.iter_mut().enumerate() {
            values.push(whole(3 + a, ATTRIBUTES[a], -1.0, GROUP_NAMES[a].len() - 1)?);
        }
        self.files.push(record.get(0).unwrap_or_default().to_owned());
        self.label.push(label as u8);
        self.probability.push(probability);
        Ok(())
    }
}

fn columns() -> impl Iterator<Item = &'static str> {
    ["file", "label", "probability"].into_iter().chain(ATTRIBUTES)
}
