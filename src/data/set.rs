//! A data set on disk: which samples each split has, and their images.

use super::cache::{Images, Source};
use super::layout::Layout;
use super::sample::{read_image, read_sample};
use super::table::stem;
use super::{Image, Sample, Split, notes, preprocess_grey};
use crate::error::{Error, Result, product};
use rayon::prelude::*;
use std::fmt;
use std::path::{Path, PathBuf};

/// Something wrong in a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as seen from the data set's folder.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.why)
    }
}

/// A data set on disk. Samples are in the order of their files' names.
#[derive(Clone, Debug)]
pub struct DataSet {
    folders: [PathBuf; 3],
    samples: [Vec<Sample>; 3],
    left_out: [usize; 3],
    problems: Vec<Problem>,
}

impl DataSet {
    /// Opens the data set in the folder `root`. Files that do not say what they must are left out, and
    /// [`DataSet::problems`] names them; pixels are not read yet.
    ///
    /// As published, a sample of Validation or Test is left out too if any of its attributes is unknown; Training keeps it.
    ///
    /// # Errors
    /// When a table or a split's folder is missing or cannot be read, or a split has no sample that can be used.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let layout = Layout::find(root.as_ref())?;
        let mut notes = notes::by_file(&layout.notes);
        let (mut samples, mut left_out, mut problems) = ([vec![], vec![], vec![]], [0; 3], vec![]);
        for split in Split::ALL {
            let (folder, files) = (&layout.folders[split as usize], layout.files(split)?);
            let read: Vec<_> = files.par_iter().map(|file| read_sample(&folder.join(file), file)).collect();
            for (file, sample) in files.into_iter().zip(read) {
                match sample {
                    Ok(sample) if split != Split::Training && sample.groups.contains(&-1) => left_out[split as usize] += 1,
                    Ok(sample) => samples[split as usize].push(Sample { note: notes.remove(stem(&file)), ..sample }),
                    Err(why) => problems.push(Problem { file: format!("{split}/{file}"), why }),
                }
            }
            if samples[split as usize].is_empty() {
                let first = problems.first().map(|p| format!("; {p}")).unwrap_or_default();
                return Err(Error::file(folder, format!("this folder holds no sample that can be used{first}")));
            }
        }
        Ok(Self { folders: layout.folders, samples, left_out, problems })
    }

    /// The samples of a split.
    pub fn samples(&self, split: Split) -> &[Sample] {
        &self.samples[split as usize]
    }

    /// How many samples the split is without because an attribute of theirs is unknown.
    pub fn left_out(&self, split: Split) -> usize {
        self.left_out[split as usize]
    }

    /// The files that were left out because something is wrong with them.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The image of a split's sample.
    ///
    /// # Errors
    /// When the split has no such sample, or its file holds no image that can be read.
    pub fn image(&self, split: Split, index: usize) -> Result<Image> {
        let samples = self.samples(split);
        let sample = samples.get(index).ok_or_else(|| {
            Error::config("the sample's index", format!("below the {} samples of {split}", samples.len()), index)
        })?;
        let path = self.folders[split as usize].join(&sample.file);
        read_image(&path).map_err(|why| Error::file(path, why))
    }

    /// Every image of a split as [`preprocess_grey`] gives it, [size, size], in the order of the split's samples. Samples whose
    /// image cannot be read are left out from now on, and [`DataSet::problems`] names them.
    ///
    /// `cache`: a file of this split's own that keeps the images for the next time. It is made anew when it is damaged, or a file
    /// of the data set has changed.
    ///
    /// # Errors
    /// When `size` is 0, no image can be read, or the cache cannot be written.
    pub fn grey_images(&mut self, split: Split, size: usize, cache: Option<&Path>) -> Result<Vec<Vec<u8>>> {
        if product("an image", &[size, size])? == 0 {
            return Err(Error::config("the images' size", "at least 1", size));
        }
        let images = match cache {
            None => self.read_images(split, size),
            Some(path) => {
                let files = self.samples(split).iter().map(|sample| &*sample.file);
                let source = Source::now(&self.folders[split as usize], files, size)?;
                match source.load(path) {
                    Some(images) => images,
                    None => {
                        let images = self.read_images(split, size);
                        source.save(path, &images)?;
                        images
                    }
                }
            }
        };
        let (mut samples, mut kept) = (vec![], vec![]);
        for (sample, image) in std::mem::take(&mut self.samples[split as usize]).into_iter().zip(images) {
            match image {
                Ok(image) => {
                    samples.push(sample);
                    kept.push(image);
                }
                Err(why) => self.problems.push(Problem { file: format!("{split}/{}", sample.file), why }),
            }
        }
        self.samples[split as usize] = samples;
        if kept.is_empty() {
            return Err(Error::file(&self.folders[split as usize], "this folder holds no image that can be read"));
        }
        Ok(kept)
    }

    fn read_images(&self, split: Split, size: usize) -> Images {
        let read = |sample: &Sample| {
            let image = read_image(&self.folders[split as usize].join(&sample.file))?;
            preprocess_grey(&image, size).map_err(|e| e.to_string())
        };
        self.samples(split).par_iter().map(read).collect()
    }
}
