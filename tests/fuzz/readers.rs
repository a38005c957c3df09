//! Everything in this crate that reads files of others.

use super::mutate::Format;
use fair_moe::case::{Case, replay};
use fair_moe::data::{DataSet, MakeConfig, Split, Tokens, check, make};
use fair_moe::model::Checkpoint;
use fair_moe::train::SavedModel;
use fair_moe::{DType, Device};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A reader, and the files that it reads.
pub struct Reader {
    pub name: &'static str,
    pub format: Format,
    /// Whole files.
    pub seeds: Vec<Vec<u8>>,
    /// Where it looks for the file.
    pub path: PathBuf,
    pub read: Box<dyn Fn(&Path)>,
    /// The most bytes that it may hold beside 64 times the file's own.
    pub room: usize,
}

const MIB: usize = 1 << 20;

/// Those that read below `folder`, which has what they read beside the damaged file.
pub fn all(folder: &Path) -> Vec<Reader> {
    let data = recorded("fairvlmed");
    let training = files(&data.join("Training"), "npz");
    let npz = [training, archived(&recorded("numpy.zip"), ".npz")].concat();
    let table = |name: &str| vec![fs::read(data.join(name)).unwrap()];
    let sets = ["npz", "notes", "summary"].map(|name| {
        let copy = folder.join(name);
        copy_folder(&data, &copy);
        // One image a split is enough.
        for other in 2..=5 {
            fs::remove_file(copy.join(format!("Training/data_{other:05}.npz"))).unwrap();
        }
        copy
    });
    let run = trained(folder);
    let models = ["clip/model", "paper/checkpoint"].map(|file| fs::read(run.join(file).with_extension("safetensors")).unwrap());
    let archives = ["checkpoint_views.pth", "checkpoint_views_protocol4.pth", "checkpoint_openai.pt", "checkpoint_fairmoe.pth"];
    let archives = archives.iter().map(|name| fs::read(recorded(name)).unwrap()).collect();
    let [npz_path, notes_path, summary_path] =
        [sets[0].join("Training/data_00001.npz"), sets[1].join("gpt4_summarized_notes.csv"), sets[2].join("data_summary.csv")];
    let reader = |name, format, seeds, path, read: Box<dyn Fn(&Path)>, room| Reader { name, format, seeds, path, read, room };
    let safetensors = |least: u64, most: u64| -> Vec<Vec<u8>> {
        let sizes = |bytes: &Vec<u8>| (least..most).contains(&(bytes.len() as u64));
        files(&recorded("."), "safetensors").into_iter().filter(sizes).collect()
    };
    vec![
        // An array may unfold to 16 MiB, which are four times as many as floats.
        reader("npz", Format::Zip, npz, npz_path, Box::new(data_set), 96 * MIB),
        reader("notes", Format::Plain, table("gpt4_summarized_notes.csv"), notes_path, Box::new(data_set), 4 * MIB),
        reader("summary", Format::Plain, table("data_summary.csv"), summary_path, Box::new(data_set), 4 * MIB),
        reader("case", Format::Safetensors, safetensors(0, 60_000), folder.join("case"), Box::new(case), 64 * MIB),
        // A whole model.
        reader("clip case", Format::Safetensors, safetensors(474_000, 475_000), folder.join("clip"), Box::new(case), 64 * MIB),
        reader(
            "checkpoint",
            Format::Safetensors,
            [safetensors(400_000, 500_000), files(&recorded("checkpoint_huggingface"), "safetensors")].concat(),
            folder.join("weights"),
            Box::new(checkpoint),
            4 * MIB,
        ),
        reader("archive", Format::Zip, archives, folder.join("archive"), Box::new(checkpoint), 16 * MIB),
        reader("model", Format::Safetensors, models.to_vec(), folder.join("model"), Box::new(model), 32 * MIB),
        reader("text", Format::Plain, texts(), folder.join("text"), Box::new(text), 4 * MIB),
    ]
}

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The files of a folder whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().filter(|path| path.extension().is_some_and(|e| e == ending)).map(|path| fs::read(path).unwrap()).collect()
}

/// The entries of an archive whose names end so.
fn archived(path: &Path, ending: &str) -> Vec<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    let entries = 0..archive.len();
    let bytes = |i| {
        let mut entry = archive.by_index(i).unwrap();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        entry.name().unwrap().ends_with(ending).then_some(bytes)
    };
    entries.filter_map(bytes).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Everything of the data set that the file is in.
fn data_set(path: &Path) {
    let root = path.ancestors().find(|folder| folder.join("Training").is_dir()).unwrap();
    if let Ok(set) = DataSet::open(root) {
        for i in 0..set.samples(Split::Training).len() {
            let _ = set.image(Split::Training, i);
        }
    }
    let _ = check(root);
}

fn case(path: &Path) {
    if let Ok(case) = Case::read(path) {
        let _ = replay(case, DType::F32, &Device::cpu());
    }
}

fn checkpoint(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let _ = (checkpoint.config(), SavedModel::load(path));
    for name in checkpoint.names() {
        let _ = checkpoint.tensor(name);
    }
}

fn model(path: &Path) {
    let _ = SavedModel::load(path);
}

/// A run's folder.
fn trained(folder: &Path) -> PathBuf {
    let (data, out) = (folder.join("made"), folder.join("run"));
    make(&data, &MakeConfig { samples: 40, bias: 1.0, seed: 1 }).unwrap();
    let mut train = Command::new(env!("CARGO_BIN_EXE_fair-moe"));
    train.args(["train", "--epochs", "1", "--batch", "16", "--data"]).arg(data).arg("--out").arg(&out);
    assert!(train.output().unwrap().status.success());
    out
}

fn texts() -> Vec<Vec<u8>> {
    let recorded: Vec<(String, Vec<u32>)> = serde_json::from_slice(&archived(&recorded("texts.zip"), ".json")[0]).unwrap();
    recorded.into_iter().step_by(25).map(|(text, _)| text.into_bytes()).collect()
}

fn text(path: &Path) {
    let text = fs::read(path).unwrap();
    assert_eq!(Tokens::of(&String::from_utf8_lossy(&text)).ids.len(), 77);
}
