//! One file of a data set.

use super::npz::{Fault, Npz};
use super::{ATTRIBUTES, GROUP_NAMES, Image};
use std::fmt;
use std::path::Path;

/// Which samples are for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Those that parameters are fitted to.
    Training,
    /// Those that choose between models.
    Validation,
    /// Those that the chosen model is measured on.
    Test,
}

impl Split {
    /// All of them.
    pub const ALL: [Split; 3] = [Split::Training, Split::Validation, Split::Test];

    /// The name of its folder, in whatever case; that of the test split may be `Testing` too.
    pub fn name(self) -> &'static str {
        match self {
            Split::Training => "Training",
            Split::Validation => "Validation",
            Split::Test => "Test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its file's name, such as `data_00001.npz`.
    pub file: String,
    /// Whether glaucoma was diagnosed: 0 or 1.
    pub label: u8,
    /// Its group in each of the [`ATTRIBUTES`], or -1 where that is unknown.
    pub groups: [i8; 4],
    /// Its summarised note, as [`super::truncate_note`] leaves it; none where there is none, or it is empty.
    pub note: Option<String>,
}

/// The array that holds the image.
const IMAGE: &str = "slo_fundus";

/// What one npz file says, but for its pixels; notes are elsewhere.
pub(super) fn read_sample(path: &Path, file: &str) -> Result<Sample, Fault> {
    let mut npz = Npz::open(path)?;
    if !npz.has(IMAGE) {
        return Err(format!("it holds no {IMAGE}"));
    }
    let label = whole(&mut npz, "glaucoma", 0, 1)? as u8;
    let mut groups = [-1; 4];
    for ((group, name), names) in groups.iter_mut().zip(ATTRIBUTES).zip(GROUP_NAMES) {
        *group = whole(&mut npz, name, -1, names.len() as i8 - 1)?;
    }
    Ok(Sample { file: file.to_owned(), label, groups, note: None })
}

/// A whole number from `least` to `most`.
fn whole(npz: &mut Npz, name: &str, least: i8, most: i8) -> Result<i8, Fault> {
    let number = npz.number(name)?;
    let range = f64::from(least)..=f64::from(most);
    if range.contains(&number) && number.fract() == 0.0 {
        Ok(number as i8)
    } else {
        Err(format!("{name} must be a whole number from {least} to {most}, but is {number}"))
    }
}

/// The image in one npz file, which shows something, in grey levels from 0 to 255.
pub(super) fn read_image(path: &Path) -> Result<Image, Fault> {
    let image = Npz::open(path)?.numbers(IMAGE)?;
    let [height, width] = image.shape[..] else {
        return Err(format!("{IMAGE} must have the shape [height, width], but has {:?}", image.shape));
    };
    if let Some(i) = image.values.iter().position(|v| !v.is_finite()) {
        return Err(format!("{IMAGE} must hold numbers, but pixel {i} is {}", image.values[i]));
    }
    let (least, most) = image.values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, m), &v| (l.min(v), m.max(v)));
    if image.values.is_empty() {
        return Err(format!("{IMAGE} is empty"));
    }
    if least == most {
        return Err(format!("{IMAGE} shows nothing: every pixel is {least}"));
    }
    if least < 0.0 || most > 255.0 || most <= 1.0 {
        return Err(format!("{IMAGE} must have values from 0 to 255, but has {least} to {most}"));
    }
    Ok(Image { height, width, pixels: image.values })
}
