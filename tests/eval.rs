//! Evaluation: the linear probe against PyTorch, and from the command line what is written, compared and refused.
#![cfg(all(feature = "cli", feature = "model"))]

mod support;

use candle_core::{Device, Tensor};
use fair_moe::data::{DataSet, MakeConfig, Split, make, normalise, tokenize};
use fair_moe::eval::{Head, HeadConfig, Predictions, Routing, compare};
use fair_moe::metrics::{Bootstrap, Metrics};
use fair_moe::model::read_tensors;
use fair_moe::train::SavedModel;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Case, assert_close, on_threads};
use tempfile::TempDir;

#[test]
fn the_linear_probe_is_that_of_pytorch() {
    let case = Case::load("linear_probe");
    let config = HeadConfig {
        epochs: case.size("epochs"),
        batch: case.size("batch"),
        base_rate: case.number("base_rate"),
        warm_up: case.size("warm_up"),
        momentum: case.number("momentum"),
        trust: case.number("trust"),
    };
    let single = |name: &str| case.get(name).iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let label: Vec<u8> = case.get("label").iter().map(|&y| y as u8).collect();
    let orders: Vec<Vec<usize>> =
        case.get("orders").chunks_exact(label.len()).map(|order| order.iter().map(|&i| i as usize).collect()).collect();
    let bias = case.get("bias");
    let mut head = Head::with(case.get("weight").to_vec(), [bias[0], bias[1]]);
    let mut epochs = 0;
    let count = |_: usize, _: &Head| {
        epochs += 1;
        Ok(())
    };
    head.fit(&single("features"), &label, &config, |epoch| orders[epoch].clone(), count).unwrap();
    assert_eq!(epochs, config.epochs);
    assert_close("weight", &head.weight, case.get("fitted_weight"), 1e-9);
    assert_close("bias", &head.bias, case.get("fitted_bias"), 1e-9);
    assert_close("mean", &head.mean, case.get("mean"), 1e-9);
    assert_close("variance", &head.variance, case.get("variance"), 1e-9);
    assert_close("probability", &head.probabilities(&single("test_features")), case.get("probability"), 1e-9);
    assert!(head.fit(&[0.0; 5], &[1], &config, |_| vec![0], |_, _| Ok(())).unwrap_err().to_string().contains("[1, 7]"));
    let none = HeadConfig { epochs: 0, ..config };
    assert!(head.fit(&[0.0; 7], &[1], &none, |_| vec![0], |_, _| Ok(())).unwrap_err().to_string().contains("epochs"));
}

/// A folder with a small data set in `data`, and a run of one epoch in `run`.
fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path().join("data"), &MakeConfig { samples: 80, bias: 1.0, seed: 3 }).unwrap();
    fair_moe(&folder, &["train", "--data", "data", "--out", "run", "--epochs", "1", "--batch", "16"]);
    folder
}

fn command(folder: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fair-moe")).current_dir(folder).args(arguments).output().unwrap()
}

#[track_caller]
fn fair_moe(folder: &TempDir, arguments: &[&str]) -> String {
    let output = command(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(folder: &TempDir, arguments: &[&str], words: &[&str]) {
    let output = command(folder, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1..=2)) && said.trim().lines().count() == 1, "{said:?}");
    words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said:?}"));
}

#[track_caller]
fn json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// The folders of the run's models, without mixtures and with them.
fn models(folder: &TempDir) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let folders = fs::read_dir(folder.path().join("run")).unwrap().map(|entry| entry.unwrap().path());
    let measured = folders.filter(|path| path.join("metrics.json").is_file());
    measured.partition(|path| path.ends_with("clip"))
}

#[test]
fn what_is_written_tells_of_every_group_and_of_every_mixture() {
    let folder = trained();
    let (plain, fair) = models(&folder);
    assert!(!plain.is_empty() && !fair.is_empty());
    for path in plain.iter().chain(&fair) {
        let metrics: Metrics = json(&path.join("metrics.json"));
        assert_eq!(metrics.bootstrap, Some(Bootstrap::default()));
        let [low, high] = metrics.intervals["accuracy"];
        assert!(low <= metrics.accuracy && metrics.accuracy <= high);
        assert_eq!((metrics.intersections.len(), metrics.thresholds.len()), (6, 4));
        assert!(metrics.settings.is_object());
        let samples: usize = metrics.attributes["race"].groups.values().map(|g| g.samples).sum();
        assert_eq!(samples, Predictions::read(&path.join("predictions.csv")).unwrap().files.len());
    }
    assert!(!plain[0].join("routing.json").exists());
    let routing: Routing = json(&fair[0].join("routing.json"));
    let metrics: Metrics = json(&fair[0].join("metrics.json"));
    let named: Vec<_> = routing.mixtures.iter().map(|(name, m)| (&**name, m.experts, &*m.input)).collect();
    let all = [
        ("text_feature", 3, "notes"),
        ("text_token", 10, "notes"),
        ("vision_feature", 3, "images"),
        ("vision_token", 10, "images"),
    ];
    assert_eq!(named, all);
    for (name, mixture) in &routing.mixtures {
        let experts = mixture.experts;
        for (attribute, groups) in &mixture.attributes {
            let samples: usize = groups.values().map(|load| load.samples).sum();
            assert_eq!(samples, mixture.all.samples, "{attribute} has no unknown group here");
            for (group, load) in groups {
                assert_eq!(load.samples, metrics.attributes[attribute].groups[group].samples, "{name} {group}");
                let is_there = load.samples > 0;
                for shares in [&load.load, &load.importance] {
                    assert_eq!(shares.len(), experts);
                    assert!(
                        (shares.iter().sum::<f64>() - f64::from(u8::from(is_there))).abs() < 1e-9,
                        "{name} {group}: {shares:?}"
                    );
                }
                assert_eq!(load.entropy.is_some(), is_there);
                assert!(load.entropy.is_none_or(|e| (0.0..=(experts as f64).ln() + 1e-6).contains(&e)));
                assert!(load.dropped.is_none_or(|d| (0.0..1.0).contains(&d)));
                assert!(load.dispersion.len() == experts && load.dispersion.iter().all(|v| *v >= 0.0));
            }
        }
        // Features are mixed by all experts; and 65 tokens of an image, of which each chooses 3 of 10 experts, exceed capacity.
        let dropped = mixture.all.dropped.unwrap();
        assert!(
            if name.ends_with("feature") { dropped == 0.0 } else { name != "vision_token" || dropped > 0.0 },
            "{name}: {dropped}"
        );
    }
}

/// As published: an image and both prompts at a time, softmax of the two cosines.
#[test]
fn a_prediction_is_the_softmax_of_an_images_cosines_with_the_prompts() {
    let folder = trained();
    let mut data = DataSet::open(folder.path().join("data")).unwrap();
    for path in [&models(&folder).0[0], &models(&folder).1[0]] {
        let file = path.join("model.safetensors");
        let clip = SavedModel::load(&file).unwrap().clip;
        let known: Vec<u32> = read_tensors(&file).unwrap().0["text_model.embeddings.token_ids"].to_vec1().unwrap();
        let row = |id: u32| known.iter().position(|&k| k == id).unwrap() as u32;
        let text = |prompt: &str| tokenize(prompt).into_iter().take(clip.config().context).map(row).collect::<Vec<u32>>();
        let prompts = ["A photo of non-glaucoma", "A photo of glaucoma"].map(text);
        let (side, said) = (clip.config().image, Predictions::read(&path.join("predictions.csv")).unwrap());
        let images = data.grey_images(Split::Test, side, None).unwrap();
        assert_eq!(images.len(), said.files.len());
        for ((image, probability), sample) in images.iter().zip(&said.probability).zip(data.samples(Split::Test)) {
            let pixels = Tensor::from_vec(normalise(image), (1, 3, side, side), &Device::Cpu).unwrap();
            let cosine: Vec<f32> = clip.forward(&pixels, &prompts).unwrap().cosine.flatten_all().unwrap().to_vec1().unwrap();
            let [none, glaucoma] = [cosine[0], cosine[1]].map(|s| f64::from(s).exp());
            assert!((probability - glaucoma / (none + glaucoma)).abs() < 1e-5, "{}: {probability}", sample.file);
        }
    }
}

#[test]
fn a_folder_that_another_model_was_measured_into_keeps_nothing_of_it() {
    let folder = trained();
    let (plain, fair) = models(&folder);
    let eval = |model: &Path| {
        let file = model.join("model.safetensors");
        fair_moe(&folder, &["eval", "--checkpoint", file.to_str().unwrap(), "--data", "data", "--out", "measured"]);
    };
    eval(&fair[0]);
    assert!(folder.path().join("measured/routing.json").exists());
    eval(&plain[0]);
    assert!(!folder.path().join("measured/routing.json").exists());
    let metrics: Metrics = json(&folder.path().join("measured/metrics.json"));
    assert_eq!(metrics.left_out, [("Test".to_owned(), 0), ("Validation".to_owned(), 0)].into());
}

#[test]
fn a_linear_probe_measures_what_features_tell() {
    let folder = trained();
    let model = models(&folder).1[0].join("model.safetensors");
    let probe = |more: &[&str]| {
        let fixed = ["eval", "--checkpoint", model.to_str().unwrap(), "--data", "data", "--linear-probe", "--epochs", "25"];
        fair_moe(&folder, &[&fixed, more].concat())
    };
    assert!(probe(&["--out", "image"]).contains("ES-AUC"));
    probe(&["--out", "again"]);
    probe(&["--out", "both", "--features", "image-text"]);
    let read = |out: &str, file: &str| fs::read(folder.path().join(out).join(file)).unwrap();
    for file in ["metrics.json", "predictions.csv"] {
        assert!(read("image", file) == read("again", file), "{file} differs");
        assert!(read("image", file) != read("both", file), "{file} does not differ");
    }
    let metrics: Metrics = json(&folder.path().join("both/metrics.json"));
    assert_eq!(metrics.settings["linear_probe"]["features"], "image-text");
    assert!(metrics.settings["selected_epoch"].as_u64().is_some_and(|epoch| [10, 20, 25].contains(&epoch)));
    let fixed = ["eval", "--checkpoint", "absent", "--data", "data", "--out", "none"];
    refused(&folder, &[&fixed[..], &["--linear-probe", "--epochs", "0"]].concat(), &["epochs", "0"]);
    refused(&folder, &[&fixed[..], &["--features", "image-text"]].concat(), &["linear-probe"]);
    refused(&folder, &[&fixed[..], &["--linear-probe", "--features", "sound"]].concat(), &["sound", "image-text"]);
    assert!(!folder.path().join("none").exists());
}

/// Writes what a model said of the recorded samples, as if it had been measured.
fn measured(folder: &Path, case: &Case, probability: &[f64]) {
    let mut table = "file,label,probability,race,gender,ethnicity,language\n".to_owned();
    let values: Vec<&[f64]> = case.get("test.attributes").chunks_exact(probability.len()).collect();
    for (i, (p, y)) in probability.iter().zip(case.get("test.label")).enumerate() {
        table += &format!("data_{i:05}.npz,{y},{p},{},{},0,{}\n", values[0][i], values[1][i], values[2][i]);
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("predictions.csv"), table).unwrap();
    fs::write(folder.join("metrics.json"), "{}").unwrap();
}

/// NumPy drew other resamples, so the ends of intervals differ by chance: by at most 4.5 standard errors of both.
#[test]
fn comparisons_are_those_of_numpy() {
    let (folder, case) = (tempfile::tempdir().unwrap(), Case::load("audit"));
    let (one, many) = (folder.path().join("a/one"), folder.path().join("b/many"));
    measured(&one, &case, case.get("test.probability"));
    for (s, probability) in case.get("seeds").chunks_exact(case.get("test.label").len()).enumerate() {
        measured(&many.join(format!("seed-{s}")), &case, probability);
    }
    let bootstrap = Bootstrap { resamples: case.size("resamples"), level: case.number("level"), seed: 1 };
    let found = compare(&[folder.path().join("a"), folder.path().join("b")], &bootstrap).unwrap();
    let names: Vec<_> = found.models.iter().map(|m| (&*m.name, m.runs.len(), m.samples, m.difference.is_some())).collect();
    assert_eq!(names, [("a/one", 1, 600, false), ("b/many", 3, 600, true)]);
    let check = |what: &str, mean: Option<f64>, interval: Option<[f64; 2]>, recorded: &str, figure: &str| {
        assert_close(what, &[mean.unwrap()], case.get(&format!("seeds.{figure}")), 1e-9);
        let (want, error) = case.get(&format!("interval.{recorded}.{figure}")).split_at(2);
        for end in 0..2 {
            let got = interval.unwrap();
            assert!(
                (got[end] - want[end]).abs() <= 4.5 * 2f64.sqrt() * error[end],
                "{what}: {got:?}, NumPy {want:?} ± {error:?}"
            );
        }
    };
    let many = &found.models[1];
    let less = many.difference.as_ref().unwrap();
    for (section, figure, recorded) in [("all", "auc", "seeds by class"), ("race", "es_auc", "seeds by race")] {
        let (mean, difference) = (&many.figures[section][figure], &less[section][figure]);
        check(figure, mean.mean, mean.interval, recorded, figure);
        check("difference", difference.mean, difference.interval, recorded, &format!("{figure} less"));
        let deviation = mean.values.iter().map(|v| (v.unwrap() - mean.mean.unwrap()).powi(2)).sum::<f64>() / 2.0;
        assert!((mean.sd.unwrap() - deviation.sqrt()).abs() < 1e-12);
    }
    let other = on_threads(5, || compare(&[folder.path().join("a"), folder.path().join("b")], &bootstrap).unwrap());
    assert_eq!(other, found);
}

#[test]
fn compare_finds_what_is_measured_and_names_what_is_wrong() {
    let (folder, case) = (tempfile::tempdir().unwrap(), Case::load("audit"));
    let path = |name: &str| folder.path().join(name);
    let p = case.get("test.probability");
    measured(&path("runs/x"), &case, p);
    measured(&path("runs/y"), &case, p);
    let table = fair_moe(&folder, &["compare", "runs", "runs/x", "--json", "all.json"]);
    for word in ["AUC", "ES-AUC", "AUC of Black", "x", "less x, on the same samples", "+0.0000 [+0.000, +0.000]"] {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
    assert!(!table.contains("+0.000] *"), "{table}");
    let all: serde_json::Value = json(&path("all.json"));
    assert_eq!(all["models"].as_array().unwrap().len(), 2);
    assert_eq!(all["models"][1]["difference"]["race"]["es_auc"]["interval"], serde_json::json!([0.0, 0.0]));

    // Fewer samples: measured, and not compared.
    let lines = fs::read_to_string(path("runs/y/predictions.csv")).unwrap();
    let fewer: String = lines.lines().take(300).map(|line| format!("{line}\n")).collect();
    fs::write(path("runs/y/predictions.csv"), &fewer).unwrap();
    assert!(fair_moe(&folder, &["compare", "runs"]).contains("y was measured on other samples"));
    measured(&path("runs/z/seed-1"), &case, p);
    fs::create_dir_all(path("runs/z/seed-2")).unwrap();
    fs::write(path("runs/z/seed-2/metrics.json"), "{}").unwrap();
    fs::write(path("runs/z/seed-2/predictions.csv"), &fewer).unwrap();
    refused(&folder, &["compare", "runs"], &["seed-2", "other samples", "seed-1"]);
    for (text, words) in [
        ("file,label\n".to_owned(), &["the columns must be file,label,probability,race"][..]),
        (lines.lines().take(1).map(|line| format!("{line}\n")).collect(), &["holds no samples"]),
        (lines.replacen(",0,", ",maybe,", 1), &["line", "maybe"]),
        (lines.replacen("data_00000.npz,", "data_00000.npz,1,", 1), &["predictions.csv"]),
    ] {
        fs::write(path("runs/z/seed-2/predictions.csv"), text).unwrap();
        refused(&folder, &["compare", "runs/z"], words);
    }
    fs::create_dir_all(path("empty")).unwrap();
    refused(&folder, &["compare", "runs/x", "empty"], &["empty", "metrics.json"]);
    refused(&folder, &["compare", "absent"], &["absent"]);
    refused(&folder, &["compare"], &["RUNS"]);
}
