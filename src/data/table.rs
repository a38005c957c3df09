//! The CSV files of a data set: quoted fields may hold line breaks.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::path::Path;

/// A CSV file with a header.
#[derive(Debug)]
pub(super) struct Table {
    columns: csv::ByteRecord,
    rows: Vec<csv::ByteRecord>,
}

impl Table {
    /// Reads a table whose first column holds file names, and says so. Rows may be ragged, and bytes that are no UTF-8 are replaced.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let failed = |e: csv::Error| Error::file(path, e);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(failed)?;
        let columns = reader.byte_headers().map_err(failed)?.clone();
        let first = text(&columns, 0).to_lowercase();
        if !first.contains("file") || without_npz(&first).is_some() {
            return Err(Error::file(
                path,
                format!("the first line must name the columns, filename first, but begins with {first:?}"),
            ));
        }
        let rows = reader.byte_records().collect::<std::result::Result<_, _>>().map_err(failed)?;
        Ok(Self { columns, rows })
    }

    /// Where the column of this name is.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        (0..self.columns.len()).find(|&i| text(&self.columns, i).eq_ignore_ascii_case(name))
    }

    /// How many columns the header names.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// Each row's file, by [`stem`], and its field in this column; empty where the row is too short.
    pub(super) fn fields(&self, column: usize) -> impl Iterator<Item = (String, Cow<'_, str>)> {
        self.rows.iter().map(move |row| (stem(&text(row, 0)).to_owned(), text(row, column)))
    }
}

fn text(row: &csv::ByteRecord, column: usize) -> Cow<'_, str> {
    match String::from_utf8_lossy(row.get(column).unwrap_or_default()) {
        Cow::Borrowed(field) => Cow::Borrowed(field.trim()),
        Cow::Owned(field) => Cow::Owned(field.trim().to_owned()),
    }
}

/// What a file is called in tables: its name, without the `.npz` (in whatever case) that some tables leave out.
pub(super) fn stem(file: &str) -> &str {
    without_npz(file).unwrap_or(file)
}

/// The name of an npz file without its ending; none of any other file.
pub(super) fn without_npz(file: &str) -> Option<&str> {
    let (name, ending) = file.split_at_checked(file.len().checked_sub(4)?)?;
    ending.eq_ignore_ascii_case(".npz").then_some(name)
}
