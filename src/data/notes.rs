//! The summarised clinical notes beside the images.

use super::table::Table;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// The names under which the notes are published.
const NAMES: [&str; 2] = ["gpt-4_summarized_notes.csv", "gpt4_summarized_notes.csv"];

/// The most characters of a note that a model reads.
const LONGEST: usize = 180;

/// A note as a model reads it: one of more than 180 characters is cut there, and then back to its last space (or, without a
/// space, by one further character, as the published code does).
pub fn truncate_note(note: &str) -> &str {
    truncate_note_to(note, LONGEST)
}

/// [`truncate_note`] with another limit.
pub(crate) fn truncate_note_to(note: &str, longest: usize) -> &str {
    let Some((end, _)) = note.char_indices().nth(longest) else { return note };
    let cut = &note[..end];
    let last = cut.char_indices().next_back().map_or(0, |(i, _)| i);
    &cut[..cut.rfind(' ').unwrap_or(last)]
}

/// The table of notes: the file's name in its first column, its note in the third, whatever they are called.
pub(super) fn table(root: &Path) -> Result<Table> {
    let path = NAMES.iter().map(|name| root.join(name)).find(|path| path.is_file());
    let path = path.ok_or_else(|| Error::file(root, format!("this folder holds neither {} nor {}", NAMES[0], NAMES[1])))?;
    let table = Table::read(&path)?;
    match table.width() {
        0..3 => Err(Error::file(path, format!("notes stand in the third column, but it has {}", table.width()))),
        _ => Ok(table),
    }
}

/// The notes by file, as a model reads them. Where a file has several, the last one counts; empty ones are none.
pub(super) fn by_file(table: &Table) -> HashMap<String, String> {
    let notes = table.fields(2).filter(|(_, note)| !note.is_empty());
    notes.map(|(file, note)| (file, truncate_note(&note).to_owned())).collect()
}
