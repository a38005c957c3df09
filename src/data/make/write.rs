//! Writes a made data set.

use super::eye::Eye;
use super::fundus::{HEIGHT, WIDTH, photograph};
use super::people::{Person, population};
use super::{MakeConfig, notes, random};
use crate::data::{ATTRIBUTES, GROUP_NAMES, Split};
use crate::error::{Error, Result};
use npyz::WriterBuilder;
use rayon::prelude::*;
use std::fs;
use std::io::{self, Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// What the marital states are called, in the order of their numbers.
const MARITAL: [&str; 5] = ["married", "single", "divorced", "widowed", "separated"];

/// A row of the tables: all but the file's pixels.
struct Row {
    file: String,
    person: Person,
    summary: String,
    note: String,
}

/// Everything, into an empty folder.
pub(super) fn data_set(folder: &Path, config: &MakeConfig) -> Result<()> {
    for split in Split::ALL {
        let path = folder.join(split.name());
        fs::create_dir(&path).map_err(|e| Error::file(path, e))?;
    }
    // Stream 0 is the population's; a sample's is its number, which counts from 1.
    let people = population(config.samples, config.bias, &mut random(config.seed, 0));
    let people: Vec<_> = (1u64..).zip(people).collect();
    let sample = |(number, person)| sample(folder, config, number, person);
    let rows: Vec<Row> = people.into_par_iter().map(sample).collect::<Result<_>>()?;
    tables(folder, &rows)
}

/// Writes one image, and gives its row.
fn sample(folder: &Path, config: &MakeConfig, number: u64, person: Person) -> Result<Row> {
    let mut rng = random(config.seed, number);
    let eye = Eye::of(&person, config.bias, &mut rng);
    let (summary, note) = notes::write(&person, &eye, &mut rng);
    let file = format!("data_{number:05}.npz");
    let path = folder.join(person.split.name()).join(&file);
    // In memory first: a zip writer that meets a full disc says so on standard error, whoever asks.
    let npz = npz(photograph(&eye, &mut rng), &person, &eye);
    npz.and_then(|npz| fs::write(&path, npz)).map_err(|e| Error::file(path, e))?;
    Ok(Row { file, person, summary, note })
}

fn npz(image: Vec<u8>, person: &Person, eye: &Eye) -> io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    // Whatever the clock says, the same bytes.
    let options = SimpleFileOptions::default().last_modified_time(DateTime::default());
    // As NumPy does unless told otherwise: noise does not compress.
    let options = options.compression_method(CompressionMethod::Stored);
    let mut write = |name: &str, array: io::Result<Vec<u8>>| {
        zip.start_file(format!("{name}.npy"), options)?;
        zip.write_all(&array?)
    };
    write("slo_fundus", npy(&[HEIGHT as u64, WIDTH as u64], image))?;
    for (name, group) in ATTRIBUTES.into_iter().zip(person.groups) {
        write(name, npy(&[], [i64::from(group)]))?;
    }
    write("maritalstatus", npy(&[], [i64::from(person.marital)]))?;
    write("glaucoma", npy(&[], [i64::from(person.label)]))?;
    write("age", npy(&[], [person.age]))?;
    write("md", npy(&[], [eye.deviation]))?;
    Ok(zip.finish()?.into_inner())
}

/// An npy file of this shape; an empty one stands for a single number.
fn npy<T: npyz::AutoSerialize>(shape: &[u64], values: impl IntoIterator<Item = T>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    let mut array = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd()?;
    array.extend(values)?;
    array.finish()?;
    Ok(bytes)
}

fn tables(folder: &Path, rows: &[Row]) -> Result<()> {
    let header = "filename age gender race ethnicity language maritalstatus note gpt4_summary glaucoma use".split(' ');
    let full = rows.iter().map(|Row { file, person, summary, note }| {
        let [race, gender, ethnicity, language] = [0, 1, 2, 3].map(|a| group_name(a, person.groups[a]));
        let marital = MARITAL[person.marital as usize % MARITAL.len()];
        let (age, glaucoma) = (person.age.to_string(), if person.label == 1 { "yes" } else { "no" });
        let usage = person.split.name().to_lowercase();
        [file, &age, &gender, &race, &ethnicity, &language, marital, note, summary, glaucoma, &usage].map(str::to_owned)
    });
    table(&folder.join("data_summary.csv"), header, full)?;
    let brief = rows.iter().map(|row| [&row.file, &row.note, &row.summary]);
    table(&folder.join("gpt-4_summarized_notes.csv"), ["filename", "note", "gpt4_summary"], brief)
}

fn group_name(attribute: usize, group: i8) -> String {
    let name = usize::try_from(group).ok().and_then(|g| GROUP_NAMES[attribute].get(g));
    name.map_or("unknown".into(), |name| name.to_lowercase())
}

fn table<R: IntoIterator<Item: AsRef<[u8]>>>(
    path: &Path,
    header: impl IntoIterator<Item = &'static str>,
    rows: impl Iterator<Item = R>,
) -> Result<()> {
    let write = || {
        let mut writer = csv::Writer::from_path(path)?;
        writer.write_record(header)?;
        for row in rows {
            writer.write_record(row)?;
        }
        writer.flush().map_err(csv::Error::from)
    };
    write().map_err(|e: csv::Error| Error::file(path, e))
}
