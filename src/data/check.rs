//! What is in a data set, and what is wrong with it.

use super::layout::Layout;
use super::npz::Fault;
use super::sample::{read_image, read_sample};
use super::table::{Table, stem};
use super::{GROUP_NAMES, Image, Problem, Sample, Split, notes};
use crate::error::Result;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// What a data set holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What each split holds, in the order of [`Split::ALL`].
    pub splits: [SplitReport; 3],
    /// How many images have each (height, width).
    pub sizes: BTreeMap<(usize, usize), usize>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// What one split holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitReport {
    /// How many npz files there are, bad ones too.
    pub files: usize,
    /// How many of them are whole; all figures below are of these.
    pub whole: usize,
    /// How many are labelled positive.
    pub positives: usize,
    /// How many have no note. Only those of Training need one.
    pub without_note: usize,
    /// How many have an attribute that is unknown.
    pub incomplete: usize,
    /// For each attribute and group, how many are labelled negative and how many positive; the unknown ones come last.
    pub groups: [Vec<[usize; 2]>; 4],
}

/// Reads everything in a data set, and goes on past whatever is wrong.
///
/// # Errors
/// When a table or a split's folder is missing or cannot be read.
pub fn check(root: impl AsRef<Path>) -> Result<Report> {
    let layout = Layout::find(root.as_ref())?;
    let notes = notes::by_file(&layout.notes);
    let (mut report, mut seen) = (Report::default(), Seen::default());
    for split in Split::ALL {
        let (folder, files) = (&layout.folders[split as usize], layout.files(split)?);
        if files.is_empty() {
            report.bad(split, "this folder holds no npz file");
        }
        report.splits[split as usize] = SplitReport::new(files.len());
        let read: Vec<_> = files.par_iter().map(|file| Content::read(&folder.join(file), file)).collect();
        for (file, content) in files.iter().zip(read) {
            let has_note = notes.contains_key(stem(file));
            if split == Split::Training && !has_note {
                report.bad(format!("{split}/{file}"), "it has no summarised note");
            }
            match content.and_then(|content| seen.once(split, file, content)) {
                Ok(content) => {
                    *report.sizes.entry(content.size).or_default() += 1;
                    report.splits[split as usize].count(&content.sample, has_note);
                }
                Err(why) => report.bad(format!("{split}/{file}"), why),
            }
        }
        seen.files.extend(files.iter().map(|file| (stem(file).to_owned(), split)));
    }
    report.compare(&layout.summary, "data_summary.csv", &seen.files);
    report.compare(&layout.notes, "the table of notes", &seen.files);
    Ok(report)
}

impl Report {
    fn bad(&mut self, file: impl ToString, why: impl ToString) {
        self.problems.push(Problem { file: file.to_string(), why: why.to_string() });
    }

    /// A table names each file once, names only files that are there, and puts them in the split whose folder they are in.
    fn compare(&mut self, table: &Table, name: &str, files: &HashMap<String, Split>) {
        let mut named = HashSet::new();
        for (file, usage) in table.fields(table.column("use").unwrap_or(usize::MAX)) {
            match files.get(&file) {
                None => self.bad(&file, format!("{name} names it, but no folder holds it")),
                Some(split) if !usage.is_empty() && !split.name().eq_ignore_ascii_case(&usage) => {
                    self.bad(&file, format!("{name} has it for {usage}, but it is in the folder {split}"));
                }
                Some(_) => {}
            }
            if !named.insert(file.clone()) {
                self.bad(&file, format!("{name} names it more than once"));
            }
        }
    }
}

impl SplitReport {
    fn new(files: usize) -> Self {
        Self { files, groups: GROUP_NAMES.map(|names| vec![[0; 2]; names.len() + 1]), ..Self::default() }
    }

    fn count(&mut self, sample: &Sample, has_note: bool) {
        self.whole += 1;
        self.positives += usize::from(sample.label);
        self.without_note += usize::from(!has_note);
        self.incomplete += usize::from(sample.groups.contains(&-1));
        for (counts, group) in self.groups.iter_mut().zip(sample.groups) {
            let unknown = counts.len() - 1;
            counts[usize::try_from(group).unwrap_or(unknown)][usize::from(sample.label)] += 1;
        }
    }
}

/// What counts of a file that is whole.
struct Content {
    sample: Sample,
    /// (height, width).
    size: (usize, usize),
    /// Equal for equal images, and for hardly any others.
    digest: u64,
}

impl Content {
    fn read(path: &Path, file: &str) -> std::result::Result<Self, Fault> {
        let (sample, image) = (read_sample(path, file)?, read_image(path)?);
        let Image { height, width, pixels } = image;
        let mut hasher = DefaultHasher::new();
        pixels.iter().for_each(|v| v.to_bits().hash(&mut hasher));
        Ok(Self { sample, size: (height, width), digest: hasher.finish() })
    }
}

/// What has been read so far.
#[derive(Default)]
struct Seen {
    /// The split of each file, by [`stem`].
    files: HashMap<String, Split>,
    /// The first file with each image.
    images: HashMap<u64, String>,
}

impl Seen {
    /// Refuses a file whose name another split has, or whose image another file has: what a model is tested on, it must not
    /// have seen.
    fn once(&mut self, split: Split, file: &str, content: Content) -> std::result::Result<Content, Fault> {
        if let Some(other) = self.files.get(stem(file)) {
            return Err(format!("the folder {other} holds a file of this name too"));
        }
        if let Some(other) = self.images.insert(content.digest, format!("{split}/{file}")) {
            return Err(format!("its image is the same as that of {other}"));
        }
        Ok(content)
    }
}
