//! Files that NumPy wrote, in every form that it has for the arrays of a data set.
#![cfg(feature = "model")]

use fair_moe::data::{DataSet, Split};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// What became of a file: what NumPy reads in it too, or why it is refused.
fn read(set: &DataSet, file: &str) -> Result<Value, String> {
    if let Some(problem) = set.problems().iter().find(|p| p.file == format!("Training/{file}")) {
        return Err(problem.why.clone());
    }
    let i = set.samples(Split::Training).iter().position(|s| s.file == file).expect("used or refused");
    let sample = &set.samples(Split::Training)[i];
    let image = set.image(Split::Training, i).map_err(|e| e.to_string())?;
    let rows: Vec<_> = image.pixels.chunks(image.width).collect();
    Ok(serde_json::json!({ "label": sample.label, "groups": sample.groups, "image": rows }))
}

/// Recorded by `tests/data/make_npz.py`.
#[test]
fn every_form_of_an_npz_file_reads_as_numpy_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/numpy.zip");
    zip::ZipArchive::new(File::open(recorded).unwrap()).unwrap().extract(folder.path()).unwrap();
    let expected: BTreeMap<String, Value> =
        serde_json::from_reader(File::open(folder.path().join("expected.json")).unwrap()).unwrap();
    assert!(expected.len() > 140);
    let set = DataSet::open(folder.path()).unwrap();
    let mut others = vec![];
    for (file, mut want) in expected {
        let form = want.as_object_mut().unwrap().remove("form").unwrap();
        match read(&set, &file) {
            Ok(got) if got == want => {}
            Err(why) if want["refused"].as_str().is_some_and(|words| why.contains(words)) => {}
            got => others.push(format!("{form}: {got:?} instead of {want}")),
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}
