//! What decides a model: with equal settings and data, two trainings give equal bytes.
//!
//! Every setting has a name, such as `loss.lambda_dispersion`. A preset gives the published values of `model` and `loss`; the size
//! of the model those of `training` and `data`, for what is published for fine-tuning a pretrained model (a rate of 1e-5, towers
//! and mixtures alone that move, and so on) would not get a fresh one anywhere. What selects the model, how the published codes
//! draw groups, and that theirs leaves the image's feature mixture as it began, is the preset's for every size. `paper` draws
//! groups as they do, a batch for each, but on `tiny` takes them from the batch itself, so that a demonstration is quick.

mod data;
mod loss;
mod model;
mod preset;
mod training;

pub use data::{DataSettings, GroupSource, LongNotes, TextSource};
pub use loss::{DistanceKind, LossSettings};
pub use model::{CapacityTokens, ModelSettings};
pub use preset::Preset;
pub use training::{Module, Precision, Schedule, SelectBy, SelectSplit, TrainingSettings};

use super::texts::Vocabulary;
use crate::config::MoeConfig;
use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::error::{Error, Result};
use crate::model::{ClipConfig, Mixtures};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, path::Path, str::FromStr};

/// The size of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// [`crate::model::ClipConfig::tiny`], trained from scratch.
    Tiny,
    /// CLIP's ViT-B/16.
    VitB16,
    /// CLIP's ViT-L/14.
    VitL14,
}

/// An attribute whose groups are to be treated alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeWeight {
    /// One of [`ATTRIBUTES`].
    pub name: String,
    /// What multiplies its groups' terms in the loss.
    pub weight: f64,
}

/// Everything that can be chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the other settings start from; also the name of the model's folder.
    pub preset: Preset,
    /// The size of the model.
    pub arch: Arch,
    /// The attributes whose groups count, each with its weight. A feature mixture has an expert for each of their groups.
    pub attributes: Vec<AttributeWeight>,
    /// The mixtures, and where the first parameters come from.
    pub model: ModelSettings,
    /// The loss.
    pub loss: LossSettings,
    /// The optimiser and its course.
    pub training: TrainingSettings,
    /// What a step shows.
    pub data: DataSettings,
}

impl Arch {
    /// Pixels along each side of its images.
    pub fn image(self) -> usize {
        self.smallest().image
    }

    /// Its sizes, with the smallest vocabulary.
    fn smallest(self) -> ClipConfig {
        match self {
            Arch::Tiny => ClipConfig::tiny(1, 1),
            Arch::VitB16 => ClipConfig::vit_b16(),
            Arch::VitL14 => ClipConfig::vit_l14(),
        }
    }
}

impl Settings {
    /// A preset on a model of this size.
    pub fn of(preset: Preset, arch: Arch) -> Self {
        let mut settings = Self {
            preset,
            arch,
            attributes: vec![AttributeWeight { name: ATTRIBUTES[0].into(), weight: 1.0 }],
            model: ModelSettings::paper(),
            loss: LossSettings::paper(),
            training: TrainingSettings::of(arch),
            data: DataSettings::of(arch),
        };
        preset.apply(&mut settings);
        settings
    }

    /// Settings in a file such as `settings.json`; what the file leaves out is as its preset and size have it.
    ///
    /// # Errors
    /// When the file cannot be read, or says what no setting can be.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |e: &dyn fmt::Display| Error::file(path, e);
        let text = std::fs::read_to_string(path).map_err(|e| bad(&e))?;
        let given: Value = serde_json::from_str(&text).map_err(|e| bad(&e))?;
        let named = |key: &str, value: &str| given.get(key).cloned().unwrap_or_else(|| value.into());
        let preset = serde_json::from_value(named("preset", "paper")).map_err(|e| bad(&e))?;
        let arch = serde_json::from_value(named("arch", "tiny")).map_err(|e| bad(&e))?;
        let mut whole = Self::of(preset, arch).to_value()?;
        overlay(&mut whole, given, "").map_err(|e| bad(&e))?;
        serde_json::from_value(whole).map_err(|e| bad(&e))
    }

    /// Changes one setting: `key` is its name, such as `loss.lambda_dispersion`, and `value` its value in JSON or a bare word.
    ///
    /// # Errors
    /// When there is no such setting, it cannot have that value, or others follow from it (`preset` and `arch`).
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if ["preset", "arch"].contains(&key) {
            return Err(Error::Refused(format!("other settings follow from {key}, so it cannot be set alone: use --{key}")));
        }
        let parsed = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        let mut given = parsed;
        for part in key.rsplit('.') {
            given = Value::Object([(part.to_owned(), given)].into_iter().collect());
        }
        let mut whole = self.to_value()?;
        overlay(&mut whole, given, "")?;
        *self = serde_json::from_value(whole).map_err(|e| Error::Refused(format!("{key} cannot be {value}: {e}")))?;
        Ok(())
    }

    fn to_value(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|e| Error::Refused(format!("settings that are no JSON: {e}")))
    }

    /// Checks that such a training can be.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.attributes.is_empty() {
            return Err(Error::config("the attributes", "at least one", "none"));
        }
        for (i, attribute) in self.attributes.iter().enumerate() {
            place(&attribute.name)?;
            if !(attribute.weight.is_finite() && attribute.weight >= 0.0) {
                return Err(Error::config("an attribute's weight", "a number from 0", attribute.weight));
            }
            if self.attributes[..i].iter().any(|a| a.name == attribute.name) {
                return Err(Error::Refused(format!("the attribute {} is named twice", attribute.name)));
            }
        }
        self.training.check()?;
        self.data.check()?;
        self.loss.check()?;
        self.model.check()?;
        match self.mixtures(&self.arch.smallest())? {
            Some(m) => [m.vision_token, m.text_token, m.vision_feature, m.text_feature].iter().try_for_each(MoeConfig::check),
            None if self.training.trainable.iter().all(|module| module.is_mixture()) => {
                Err(Error::config("trainable", "a part that a plain CLIP has", "mixtures alone"))
            }
            None => Ok(()),
        }
    }

    /// The sizes of the model, reading texts of these tokens.
    pub(in crate::train) fn clip(&self, vocabulary: &Vocabulary) -> ClipConfig {
        match self.arch {
            Arch::Tiny => ClipConfig::tiny(vocabulary.context(), vocabulary.ids().len()),
            Arch::VitB16 | Arch::VitL14 => self.arch.smallest(),
        }
    }

    /// The four mixtures of a model of these sizes; none in a plain CLIP.
    ///
    /// # Errors
    /// When there is no such attribute.
    pub fn mixtures(&self, clip: &ClipConfig) -> Result<Option<Mixtures>> {
        let groups = self.places()?.into_iter().map(|(_, groups)| groups).sum();
        Ok(self.model.build(clip, groups))
    }

    /// Steps in an epoch over so many training samples.
    pub fn steps(&self, samples: usize) -> u64 {
        let whole = samples / self.training.batch;
        let last = !self.data.drop_last && !samples.is_multiple_of(self.training.batch);
        (whole + usize::from(last)) as u64
    }

    /// The attributes that count: the place of each among [`ATTRIBUTES`], and how many groups it has.
    ///
    /// # Errors
    /// When there is no such attribute.
    pub fn places(&self) -> Result<Vec<(usize, usize)>> {
        self.attributes.iter().map(|a| place(&a.name).map(|at| (at, GROUP_NAMES[at].len()))).collect()
    }
}

/// Where an attribute stands among [`ATTRIBUTES`].
fn place(name: &str) -> Result<usize> {
    let place = ATTRIBUTES.iter().position(|known| *known == name);
    place.ok_or_else(|| Error::config("the attribute", ATTRIBUTES.join(", "), name))
}

/// Puts the values of `given` over those of `whole`, key by key.
fn overlay(whole: &mut Value, given: Value, name: &str) -> Result<()> {
    match (whole, given) {
        (Value::Object(whole), Value::Object(given)) => given.into_iter().try_for_each(|(key, value)| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            let known = whole.keys().cloned().collect::<Vec<_>>().join(", ");
            let old = whole.get_mut(&key);
            let old = old.ok_or_else(|| Error::Refused(format!("there is no setting {name}; beside it there are {known}")))?;
            overlay(old, value, &name)
        }),
        (Value::Object(_), given) => Err(Error::Refused(format!("{name} is a group of settings, and cannot be {given}"))),
        (whole, given) => {
            *whole = given;
            Ok(())
        }
    }
}

impl FromStr for AttributeWeight {
    type Err = Error;

    /// `race`, or `race=0.5`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
        let number = weight.parse().map_err(|_| Error::config("an attribute's weight", "a number from 0", weight))?;
        Ok(Self { name: name.to_owned(), weight: number })
    }
}

impl fmt::Display for Settings {
    /// One setting a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        lines(&whole, "", f)
    }
}

/// Each value that is no group of settings, under its whole name.
fn lines(value: &Value, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match value {
        Value::Object(all) => all.iter().try_for_each(|(key, value)| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            lines(value, &name, f)
        }),
        _ => writeln!(f, "  {name:<28} {}", value.to_string().replace('"', "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fol::{Distance, FolConfig};
    use crate::model::Preset as Published;

    #[test]
    fn fair_moes_presets_are_its_published_mixtures_and_losses() {
        let clip = ClipConfig::vit_l14();
        for (preset, published) in [(Preset::Paper, Published::Paper), (Preset::Authors, Published::Authors)] {
            let settings = Settings::of(preset, Arch::VitL14);
            assert_eq!(settings.mixtures(&clip).unwrap(), Some(Mixtures::preset(published, &clip, 3)));
            assert_eq!(settings.loss.config(), published.loss());
            assert_eq!(settings.loss.choice(), published.gates());
            settings.check().unwrap();
        }
        let authors = Settings::of(Preset::Authors, Arch::VitB16);
        assert_eq!((authors.data.groups, authors.data.group_batch), (GroupSource::Separate, 64));
        assert_eq!(authors.training.select_split, SelectSplit::Test);
        assert!(!authors.training.trainable.contains(&Module::VisionFeatureMoe));
        assert_eq!(authors.data.long_notes, LongNotes::Error);
        assert!(authors.training.trainable.contains(&Module::VisionEmbeddings));
        let paper = Settings::of(Preset::Paper, Arch::VitB16);
        assert_eq!((paper.data.groups, paper.data.group_batch), (GroupSource::Separate, 32));
        assert_eq!(paper.data.long_notes, LongNotes::Cut);
        // Both towers and the four mixtures.
        let mixtures = [Module::VisionTokenMoe, Module::TextTokenMoe, Module::VisionFeatureMoe, Module::TextFeatureMoe];
        let want = std::collections::BTreeSet::from(mixtures);
        let want = want.into_iter().chain([Module::VisionTower, Module::TextTower]).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(paper.training.trainable.into_iter().collect::<std::collections::BTreeSet<_>>(), want);
    }

    #[test]
    fn fairclips_presets_are_its_scripts_and_its_paper() {
        let [code, paper] = [Preset::Fairclip, Preset::FairclipPaper].map(|preset| Settings::of(preset, Arch::VitB16));
        let sinkhorn = Distance::Sinkhorn { blur: 1e-6, scaling: 0.5 };
        let plain = FolConfig { lambda_dispersion: 0.0, distance: sinkhorn, ..FolConfig::paper() };
        let published = FolConfig::authors();
        let of_code = FolConfig { correlation: published.correlation, normalise: published.normalise, ..plain.clone() };
        assert_eq!(code.loss.config(), of_code);
        assert_eq!(paper.loss.config(), FolConfig { lambda_distance: 1e-7, ..plain });
        for settings in [code, paper] {
            assert_eq!(settings.mixtures(&ClipConfig::vit_b16()).unwrap(), None);
            assert_eq!((settings.data.groups, settings.data.group_batch), (GroupSource::Separate, 32));
            assert_eq!((settings.training.rate, settings.training.adam.betas), (1e-5, [0.1, 0.1]));
        }
    }

    #[test]
    fn any_setting_can_be_set_by_its_name() {
        let mut settings = Settings::of(Preset::Paper, Arch::Tiny);
        let word_or_json = [
            ("loss.lambda_dispersion", "2.5"),
            ("model.capacity_tokens", "fixed(197)"),
            ("model.experts_from", "{\"layer\":11}"),
            ("model.capacity_factor", "null"),
            ("training.trainable", "[\"text_tower\"]"),
            ("training.select_by", "es-auc"),
            ("data.groups", "separate"),
            ("loss.normalise", "zscore"),
            ("loss.gates", "[\"text_feature\",\"image_token\"]"),
            ("data.long_notes", "error"),
            ("attributes", "[{\"name\":\"gender\",\"weight\":0.5}]"),
        ];
        word_or_json.iter().for_each(|(key, value)| settings.set(key, value).unwrap());
        assert_eq!(settings.loss.lambda_dispersion, 2.5);
        assert_eq!(settings.model.capacity_tokens, CapacityTokens::Fixed(197));
        assert_eq!(settings.training.trainable, [Module::TextTower]);
        assert_eq!(settings.attributes, ["gender=0.5".parse().unwrap()]);
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        for (key, value, why) in [
            ("loss.lambda", "1", "there is no setting loss.lambda; beside it there are blur"),
            ("loss", "1", "loss is a group of settings"),
            ("loss.blur.x", "1", "loss.blur"),
            ("training.epochs", "-1", "training.epochs cannot be -1"),
            ("model.capacity_tokens", "many", "actual or fixed(NUMBER)"),
            ("", "1", "there is no setting"),
            ("preset", "clip", "use --preset"),
            ("arch", "vit-b16", "use --arch"),
        ] {
            let before = settings.clone();
            let sentence = settings.set(key, value).unwrap_err().to_string();
            assert!(sentence.contains(why), "{sentence}");
            assert_eq!(settings, before, "{key}");
        }
    }

    #[test]
    fn what_no_training_can_have_is_refused() {
        for (preset, key, value, why) in [
            (Preset::Paper, "model.feature_top_k", "9", "top-k"),
            (Preset::Clip, "training.trainable", "[\"text_token_moe\"]", "a part that a plain CLIP has"),
        ] {
            let mut settings = Settings::of(preset, Arch::VitB16);
            settings.set(key, value).unwrap();
            let sentence = settings.check().unwrap_err().to_string();
            assert!(sentence.contains(why), "{sentence}");
        }
    }

    #[test]
    fn a_file_of_settings_says_only_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.json");
        std::fs::write(&file, r#"{"preset": "authors", "arch": "vit-l14", "training": {"epochs": 3}}"#).unwrap();
        let mut want = Settings::of(Preset::Authors, Arch::VitL14);
        want.training.epochs = 3;
        assert_eq!(Settings::read(&file).unwrap(), want);
        for text in ["{", "[]", r#"{"preset": "mine"}"#, r#"{"loss": {"lambda": 1}}"#, r#"{"training": {"epochs": "x"}}"#] {
            std::fs::write(&file, text).unwrap();
            let sentence = Settings::read(&file).unwrap_err().to_string();
            assert!(sentence.contains("settings.json"), "{sentence}");
        }
    }

    #[test]
    fn the_rate_rises_in_a_line_and_falls_along_a_cosine() {
        let mut training = TrainingSettings { rate: 2.0, warmup: 0.2, ..TrainingSettings::of(Arch::Tiny) };
        let rates = |t: &TrainingSettings| (0..10).map(|step| t.rate_at(step, 10)).collect::<Vec<_>>();
        let found = rates(&training);
        assert_eq!(found[..3], [1.0, 2.0, 2.0]);
        approx::assert_abs_diff_eq!(found[6], 1.0, epsilon = 1e-12);
        assert!(found[2..].is_sorted_by(|a, b| a > b));
        (training.schedule, training.warmup) = (Schedule::Constant, 0.0);
        assert_eq!(rates(&training), [2.0; 10]);
    }
}
