//! Data sets in the format of Harvard-FairVLMed: fundus images, attributes, labels and clinical notes.
//!
//! ```text
//! ROOT/data_summary.csv               filename, age, gender, race, ..., note, gpt4_summary, glaucoma, use
//! ROOT/gpt-4_summarized_notes.csv     or gpt4_summarized_notes.csv: first column the file's name, third its note
//! ROOT/Training  ROOT/Validation  ROOT/Test (or Testing)     data_XXXXX.npz
//! ```
//! An npz file holds `slo_fundus` (a grey image, [height, width], values from 0 to 255, not all the same and not all within 0 to 1)
//! and, as single numbers, `glaucoma` (0 or 1), `race`, `gender`, `ethnicity` and `language` (-1: unknown); whatever else it holds
//! is not read. Numbers are integers of up to 64 bits, floats of 16, 32 or 64 bits (NumPy's long double is refused) or bools.

mod cache;
mod check;
mod image;
mod layout;
mod make;
mod notes;
mod npz;
mod sample;
mod set;
mod table;
mod text;

pub use check::{Report, SplitReport, check};
pub use image::{Image, normalise, preprocess, preprocess_grey};
pub use make::{MakeConfig, make};
pub use notes::truncate_note;
pub(crate) use notes::truncate_note_to;
pub use sample::{Sample, Split};
pub use set::{DataSet, Problem};
pub use text::{CONTEXT, Tokens, tokenize};

/// The attributes that a sample's groups belong to, in the order of [`Sample::groups`].
pub const ATTRIBUTES: [&str; 4] = ["race", "gender", "ethnicity", "language"];

/// What the groups of each of the [`ATTRIBUTES`] are called, in the order of their numbers.
pub const GROUP_NAMES: [&[&str]; 4] =
    [&["Asian", "Black", "White"], &["Female", "Male"], &["Non-Hispanic", "Hispanic"], &["English", "Spanish", "Other"]];
