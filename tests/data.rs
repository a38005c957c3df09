//! Data sets: files that NumPy wrote, preprocessing as Pillow does it, CLIP's token ids, and files that are broken.
#![cfg(all(feature = "cli", feature = "model"))]

mod support;

use fair_moe::data::{
    DataSet, Image, MakeConfig, Problem, Split, check, make, preprocess, preprocess_grey, tokenize, truncate_note,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::{Case, assert_close};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fairvlmed")
}

/// A copy of the recorded data set that a test may change.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["", "Training", "validation", "Testing"] {
        fs::create_dir_all(copy.path().join(folder)).unwrap();
        for entry in fs::read_dir(recorded().join(folder)).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                fs::copy(entry.path(), copy.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}

fn all_images(set: &DataSet) -> Vec<fair_moe::Result<Image>> {
    let of = |split| (0..set.samples(split).len()).map(move |i| set.image(split, i));
    Split::ALL.into_iter().flat_map(of).collect()
}

#[test]
fn every_number_type_that_numpy_writes() {
    let set = DataSet::open(recorded()).unwrap();
    let found = |split| set.samples(split).iter().map(|s| (&s.file[5..10], s.label, s.groups)).collect::<Vec<_>>();
    let training =
        [("00001", 1, [2, 0, 0, 0]), ("00002", 0, [1, 1, 1, 2]), ("00003", 1, [0, 1, -1, -1]), ("00004", 0, [2, 1, 0, 1])];
    // The fifth holds pickled objects as its image, which shows when that is read.
    assert_eq!(found(Split::Training)[..4], training);
    assert_eq!(found(Split::Validation), [("00006", 0, [0, 0, 0, 0])]);
    // 00008 has an unknown ethnicity, which a test split leaves out.
    assert_eq!(found(Split::Test), [("00007", 1, [1, 0, 1, 1])]);
    assert_eq!(Split::ALL.map(|split| set.left_out(split)), [0, 0, 1]);
    let pixels: Vec<f32> = (0..30).map(|i| (i * 7 % 251) as f32).collect();
    let whole = Image { height: 6, width: 5, pixels };
    for (i, image) in all_images(&set).into_iter().enumerate() {
        match i {
            4 => assert!(image.unwrap_err().to_string().contains("pickled"), "image 4"),
            _ => assert_eq!(image.unwrap(), whole, "image {i}"),
        }
    }
    let problems: Vec<String> = set.problems().iter().map(|p| p.to_string()).collect();
    assert_eq!(problems, ["Test/data_00009.npz: it holds no slo_fundus"]);
}

#[test]
fn notes_are_trimmed_truncated_and_may_be_missing() {
    let set = DataSet::open(recorded()).unwrap();
    let notes: Vec<Option<&str>> = set.samples(Split::Training).iter().map(|s| s.note.as_deref()).collect();
    assert_eq!(notes[0], Some("Cup-to-disc ratio 0.8,\nrim \"thin\" below."));
    assert_eq!(notes[1], Some(&*"á".repeat(100)));
    assert_eq!(notes[2..], [None; 3]);
}

#[test]
fn truncation_as_in_python() {
    assert_eq!(truncate_note(&"é".repeat(180)), "é".repeat(180));
    assert_eq!(truncate_note(&"é".repeat(181)), "é".repeat(179));
    assert_eq!(truncate_note(&format!("{} {}", "é".repeat(179), "x")), "é".repeat(179));
    assert_eq!(truncate_note(&format!("one two{}", "é".repeat(200))), "one");
}

#[test]
fn a_folder_without_its_parts_is_one_sentence() {
    let message = |folder: &Path| DataSet::open(folder).unwrap_err().to_string();
    assert!(message(Path::new("no such folder")).contains("there is no such folder"));
    let lacks = |part: &str| {
        let copy = copy();
        let path = copy.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        message(copy.path())
    };
    assert!(lacks("data_summary.csv").contains("holds no data_summary.csv"));
    assert!(lacks("gpt4_summarized_notes.csv").contains("neither gpt-4_summarized_notes.csv nor gpt4_summarized_notes.csv"));
    assert!(lacks("validation").contains("no folder Validation"));
    assert!(lacks("validation/data_00006.npz").contains("no sample that can be used"));
    let both = copy();
    fs::create_dir(both.path().join("test")).unwrap();
    assert!(message(both.path()).contains("both Testing and test"));
    let headless = copy();
    fs::write(headless.path().join("gpt4_summarized_notes.csv"), "data_00001.npz,a,b\n").unwrap();
    assert!(message(headless.path()).contains("must name the columns"));
}

/// Bytes that unfold to far more than they promise, or promise far more than there is.
#[test]
fn oversized_arrays_are_refused() {
    let npy = |header: &str, body: &[u8]| {
        let header = format!("{header:<117}\n");
        [b"\x93NUMPY\x01\0".as_slice(), &118u16.to_le_bytes(), header.as_bytes(), body].concat()
    };
    let image = |shape: &str| format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
    let cases = [
        (npy(&image("(9, 9)"), &vec![0; 20 << 20]), "unfolds to more than 16 MiB"),
        (npy(&image("(1152921504606846976, 1)"), &[0; 9]), "promises the shape [1152921504606846976, 1]"),
        (npy(&image("(4294967296, 4294967296)"), &[0; 9]), "not that of a plain array"),
        (npy(&image("(0xFFFFFFFFFFFFFFFF, 2)"), &[0; 9]), "not that of a plain array"),
        (npy(&image(&format!("({}", "(".repeat(60))), &[0; 9]), "not that of a plain array"),
        (npy(&image("(3,)"), &[0; 9]), "must have the shape [height, width]"),
        (npy(&image("(0, 3)"), &[]), "is empty"),
        (npy(&image("(2, 2)"), &[7; 4]), "shows nothing: every pixel is 7"),
        (npy(&image("(2, 2)"), &[0, 1, 0, 1]), "must have values from 0 to 255, but has 0 to 1"),
        (npy("{'descr': '<i2', 'fortran_order': False, 'shape': (1, 2), }", &[0, 0, 0, 1]), "but has 0 to 256"),
        (npy("{'descr': '<f16', 'fortran_order': False, 'shape': (1, 1), }", &[0; 16]), "these are <f16"),
        (npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }", &[0; 8]), "these are <c8"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }", &f32::NAN.to_le_bytes()), "pixel 0 is NaN"),
        (b"\x93NUMPY\x01\0\xff\xff{}".to_vec(), "no npy file"),
        (vec![], "no npy file"),
    ];
    for (npy, why) in cases {
        let copy = copy();
        let path = copy.path().join("Training/data_00001.npz");
        replace_array(&path, "slo_fundus", &npy);
        let message = DataSet::open(copy.path()).unwrap().image(Split::Training, 0).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
        // Whoever reads it, it is refused for the same reason.
        let report = check(copy.path()).unwrap();
        assert!(report.problems.iter().any(|p| p.file == "Training/data_00001.npz" && p.why.contains(why)), "{why}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_file() {
    let copy = copy();
    let pipe = copy.path().join("Training/data_00000.npz");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let is_it = |p: &Problem| p.to_string() == "Training/data_00000.npz: this is no file";
    assert!(check(copy.path()).unwrap().problems.iter().any(is_it));
    assert!(DataSet::open(copy.path()).unwrap().problems().iter().any(is_it));
}

/// Tables name a file with or without its ending, and the ending is the same in capitals.
#[test]
fn an_ending_in_capitals() {
    let copy = copy();
    let path = |name: &str| copy.path().join("Training").join(name);
    fs::rename(path("data_00001.npz"), path("data_00001.NPZ")).unwrap();
    let set = DataSet::open(copy.path()).unwrap();
    let first = &set.samples(Split::Training)[0];
    assert_eq!(first.file, "data_00001.NPZ");
    assert!(first.note.as_ref().unwrap().starts_with("Cup-to-disc"));
    let problems = |folder: &Path| check(folder).unwrap().problems.iter().filter(|p| p.file.contains("00001")).count();
    assert_eq!(problems(copy.path()), problems(&recorded()));
}

/// Rewrites an npz file with another array in the place of one, deflated.
fn replace_array(path: &Path, name: &str, npy: &[u8]) {
    use std::io::{Read, Write};
    let mut old = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut new = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    for i in 0..old.len() {
        let mut entry = old.by_index(i).unwrap();
        new.start_file(entry.name().unwrap().into_owned(), zip::write::SimpleFileOptions::default()).unwrap();
        let mut body = vec![];
        entry.read_to_end(&mut body).unwrap();
        let is_it = entry.name().unwrap() == format!("{name}.npy");
        new.write_all(if is_it { npy } else { &body }).unwrap();
    }
    fs::write(path, new.finish().unwrap().into_inner()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens to a file, opening and reading ends in a value or an error.
    #[test]
    fn damaged_files_never_panic(
        file in 0..7usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let files = ["Training/data_00001.npz", "Training/data_00002.npz", "Training/data_00003.npz", "Training/data_00004.npz",
            "Training/data_00005.npz", "gpt4_summarized_notes.csv", "data_summary.csv"];
        let copy = copy();
        let path = copy.path().join(files[file]);
        let mut bytes = fs::read(&path).unwrap();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(set) = DataSet::open(copy.path()) {
            all_images(&set);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), file in 0..3usize) {
        let copy = copy();
        fs::write(copy.path().join(["Training/data_00001.npz", "gpt4_summarized_notes.csv", "data_summary.csv"][file]), bytes).unwrap();
        if let Ok(set) = DataSet::open(copy.path()) {
            all_images(&set);
        }
    }

    #[test]
    fn any_text_has_77_ids(text in ".{0,400}") {
        let ids = tokenize(&text);
        prop_assert_eq!((ids.len(), ids[0], ids.iter().max()), (77, 49406, Some(&49407)));
        prop_assert!(truncate_note(&text).chars().count() <= 180);
    }
}

/// Every file under a folder, and what it holds.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let of = |path: PathBuf| if path.is_dir() { contents(&path) } else { vec![(path.clone(), fs::read(&path).unwrap())] };
    entries
        .into_iter()
        .flat_map(of)
        .map(|(path, bytes)| (path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path), bytes))
        .collect()
}

#[test]
fn the_same_seed_makes_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, seed, threads| {
        let path = folder.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| make(&path, &MakeConfig { samples: 10, bias: 1.0, seed })).unwrap();
        contents(&path)
    };
    let first = made("first", 1, 1);
    assert_eq!(first.len(), 12);
    assert!(first == made("second", 1, 2));
    assert!(first != made("third", 2, 2));
}

#[test]
fn made_data_opens_and_shows_what_its_notes_say() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &MakeConfig { samples: 40, bias: 0.0, seed: 3 }).unwrap();
    let set = DataSet::open(folder.path()).unwrap();
    assert!(set.problems().is_empty());
    assert_eq!(set.samples(Split::Training).len(), 28);
    let (mut written, mut seen) = (vec![], vec![]);
    for (i, sample) in set.samples(Split::Training).iter().enumerate() {
        let note = sample.note.as_ref().unwrap();
        assert!(note.chars().count() <= 180 && note.to_lowercase().contains("glaucoma"));
        let (_, ratio) = note.split_once("/D ").or(note.split_once("/P ")).unwrap();
        written.push(ratio[..4].parse::<f64>().unwrap());
        let image = set.image(Split::Training, i).unwrap();
        assert_eq!((image.height, image.width), (664, 512));
        let around = |y: usize| &image.pixels[y * 512 + 186..y * 512 + 326];
        seen.push((262..402).flat_map(around).map(|&v| f64::from(v)).sum::<f64>());
    }
    // The larger the cup, the brighter the middle of the image.
    let r = correlation(&written, &seen);
    assert!(r > 0.7, "the correlation of written cup-to-disc ratio and brightness is {r}");
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - mean(a)) * (y - mean(b))).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

#[test]
fn the_report_names_every_bad_file_and_why() {
    let copy = copy();
    let in_copy = |path: &str| copy.path().join(path);
    fs::copy(in_copy("Training/data_00002.npz"), in_copy("Testing/data_00010.npz")).unwrap();
    fs::copy(in_copy("Training/data_00001.npz"), in_copy("Testing/data_00001.npz")).unwrap();
    fs::write(in_copy("Training/data_00004.npz"), "garbage").unwrap();
    fs::remove_file(in_copy("Testing/data_00008.npz")).unwrap();
    let report = check(copy.path()).unwrap();
    let problems: Vec<String> = report.problems.iter().map(|p| p.to_string()).collect();
    // All recorded images are the same.
    for problem in [
        "Training/data_00003.npz: it has no summarised note",
        "Training/data_00002.npz: its image is the same as that of Training/data_00001.npz",
        "Training/data_00004.npz: this is no whole npz file",
        "Training/data_00005.npz: slo_fundus: it holds pickled objects",
        "Test/data_00009.npz: it holds no slo_fundus",
        "Test/data_00010.npz: its image is the same as that of",
        "Test/data_00001.npz: the folder Training holds a file of this name too",
        "data_00001: data_summary.csv has it for training, but it is in the folder Test",
        "data_00008: data_summary.csv names it, but no folder holds it",
    ] {
        assert!(problems.iter().any(|p| p.starts_with(problem)), "{problem:?} is not in {problems:#?}");
    }
    assert_eq!(report.splits.each_ref().map(|s| (s.files, s.whole)), [(5, 1), (1, 0), (4, 0)]);
    assert_eq!((report.splits[0].positives, &report.splits[0].groups[0]), (1, &vec![[0, 0], [0, 0], [0, 1], [0, 0]]));
    assert_eq!(report.sizes.into_iter().collect::<Vec<_>>(), [((6, 5), 1)]);
}

#[test]
fn check_on_the_command_line() {
    let fair_moe = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_fair-moe")).arg("data").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let made = made.to_str().unwrap();
    assert_eq!(fair_moe(&["make", "--out", made, "--samples", "20"]).0, Some(0));
    let (code, report, _) = fair_moe(&["check", made]);
    assert!(code == Some(0) && report.ends_with("20 images of 664 x 512 pixels\nnothing is wrong\n"), "{report}");
    let (code, report, error) = fair_moe(&["check", recorded().to_str().unwrap()]);
    assert!(code == Some(1) && report.contains("it holds no slo_fundus") && error.lines().count() == 1, "{report}{error}");
    let (code, report, error) = fair_moe(&["make", "--out", made]);
    assert_eq!((code, &*report, error.lines().count()), (Some(1), "", 1));
}

#[test]
fn making_here() {
    let folder = tempfile::tempdir().unwrap();
    let mut fair_moe = std::process::Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    let output = fair_moe.current_dir(&folder).args(["data", "make", "--out", ".", "--samples", "10"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(contents(folder.path()).len(), 12);
}

/// Gives a file other bytes, and the same time of change.
fn replace_unnoticed(path: &Path, bytes: &[u8]) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn cached_images_are_used_until_a_file_changes() {
    let copy = copy();
    let (cache, file) = (copy.path().join("images"), copy.path().join("Training/data_00001.npz"));
    let read = |cache: Option<&Path>| {
        let mut set = DataSet::open(copy.path()).unwrap();
        let images = set.grey_images(Split::Training, 4, cache).unwrap();
        assert_eq!(images.len(), set.samples(Split::Training).len());
        (images, set.problems().iter().map(|p| p.to_string()).collect::<Vec<_>>())
    };
    let fresh = read(None);
    assert_eq!(fresh.0.len(), 4);
    assert!(fresh.1[1].starts_with("Training/data_00005.npz: slo_fundus: it holds pickled objects"));
    assert!(read(Some(&cache)) == fresh);
    // A file that changes behind the cache's back shows that the cache is what was read.
    let mut changed = fs::read(&file).unwrap();
    let image = changed.windows(4).position(|w| w == [0, 7, 14, 21]).unwrap();
    changed[image] = 255;
    replace_unnoticed(&file, &changed);
    assert!(read(Some(&cache)) == fresh);
    fs::write(&file, &changed).unwrap();
    assert_eq!(read(Some(&cache)).0.len(), 3);
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let copy = copy();
    let cache = copy.path().join("images");
    let read = || DataSet::open(copy.path()).unwrap().grey_images(Split::Test, 4, Some(&cache)).unwrap();
    let (fresh, whole) = (read(), fs::read(&cache).unwrap());
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        fs::write(&cache, if place % 2 == 0 { &damaged } else { &damaged[..place] }).unwrap();
        assert!(read() == fresh, "byte {place}");
    }
    let under_a_file = copy.path().join("images/under");
    DataSet::open(copy.path()).unwrap().grey_images(Split::Test, 4, Some(&under_a_file)).unwrap_err();
    DataSet::open(copy.path()).unwrap().grey_images(Split::Test, 0, None).unwrap_err();
}

#[test]
fn making_is_refused_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let config = MakeConfig { samples: 10, bias: 1.0, seed: 0 };
    let out = folder.path().join("out");
    for bad in [MakeConfig { samples: 9, ..config }, MakeConfig { bias: f64::NAN, ..config }, MakeConfig { bias: -0.1, ..config }]
    {
        make(&out, &bad).unwrap_err();
    }
    fs::write(folder.path().join("file"), "kept").unwrap();
    for taken in [folder.path().to_owned(), folder.path().join("file"), folder.path().join("file/under")] {
        make(&taken, &config).unwrap_err();
    }
    assert_eq!(contents(folder.path()), [(PathBuf::from("file"), b"kept".to_vec())]);
}

fn image(case: &Case, name: &str) -> Image {
    let [height, width] = case.shape(name)[..] else { panic!("{name} is no image") };
    Image { height, width, pixels: case.get(name).iter().map(|&v| v as f32).collect() }
}

#[test]
fn preprocessing_as_recorded() {
    let case = Case::load("preprocess_shared");
    let pixels = preprocess(&image(&case, "image"), case.size("size")).unwrap();
    let pixels: Vec<f64> = pixels.into_iter().map(f64::from).collect();
    assert_close("pixels", &pixels, case.get("pixels"), 2e-7);
}

/// Recorded from Pillow 13: `Image.fromarray(image.astype("f4"), "F").resize(.., Image.BICUBIC).crop(..).convert("RGB")`.
#[test]
fn resizing_as_pillow_does_it() {
    let case = Case::load("preprocess_pillow");
    for name in ["tall", "wide", "grown", "same"] {
        let want = case.get(&format!("{name}.grey"));
        let size = case.shape(&format!("{name}.grey"))[0];
        let grey = preprocess_grey(&image(&case, &format!("{name}.image")), size).unwrap();
        assert_eq!(grey.into_iter().map(f64::from).collect::<Vec<_>>(), want, "{name}");
    }
}

#[test]
fn impossible_sizes_are_refused() {
    let pixel = Image { height: 1, width: 1, pixels: vec![0.0] };
    assert_eq!(preprocess(&pixel, 2).unwrap().len(), 12);
    // The square in the middle is all that costs: the whole resized image would not fit any memory.
    let line = Image { height: 1, width: 4_000_000, pixels: vec![9.0; 4_000_000] };
    assert!(preprocess_grey(&line, 100).unwrap().iter().all(|&v| v == 9 || v == 8));
    preprocess(&pixel, 0).unwrap_err();
    preprocess(&pixel, usize::MAX).unwrap_err();
    preprocess(&Image { height: 0, width: 1, pixels: vec![] }, 2).unwrap_err();
    preprocess(&Image { height: 2, width: 1, pixels: vec![0.0] }, 2).unwrap_err();
}

/// The ids of OpenAI's own tokenizer.
#[test]
fn token_ids_as_recorded() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tokens_shared.json");
    let cases: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let want: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenize(text), want, "{text:?}");
    }
}

/// Recorded by `tests/data/make_tables.py`.
#[test]
fn every_form_of_a_table_reads_as_pandas_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tables.zip");
    zip::ZipArchive::new(fs::File::open(recorded).unwrap()).unwrap().extract(folder.path()).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, Option<String>>> =
        serde_json::from_slice(&fs::read(folder.path().join("expected.json")).unwrap()).unwrap();
    for (table, want) in expected {
        let copy = copy();
        fs::copy(folder.path().join(&table), copy.path().join("gpt4_summarized_notes.csv")).unwrap();
        let set = DataSet::open(copy.path()).unwrap();
        let notes: BTreeMap<_, _> = set.samples(Split::Training).iter().map(|s| (s.file.clone(), s.note.clone())).collect();
        assert_eq!(notes, want, "{table}");
    }
}
