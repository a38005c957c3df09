//! A whole training step of Fair-MoE's ViT-B/16 on the CPU, in three parts: towers and loss, every gradient, Adam.

use super::{Cost, Part, Pass, Stage, Work};
use crate::candle::{TensorGroups, fol};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::fol::Fol;
use crate::model::{Clip, ClipConfig, GateChoice, Mixtures, Weights};
use crate::train::{Adam, Arch, Module, Preset, Settings};
use candle_core::backprop::GradStore;
use candle_core::{DType as Number, Device, Tensor};

/// Groups of the attribute, as race has.
const GROUPS: usize = 3;

/// The model of preset `paper` with fresh parameters in f32, a batch that is its own groups, and what the parts leave to each other.
pub struct StepWork {
    clip: Clip,
    adam: Adam,
    moving: usize,
    loss: Fol,
    gates: GateChoice,
    pixels: Tensor,
    ids: Vec<Vec<u32>>,
    groups: Vec<i64>,
    total: Option<Tensor>,
    gradients: Option<GradStore>,
}

impl StepWork {
    /// On B = `samples` samples, computing in `dtype`; `prune`: experts run on the rows alone that are read.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(samples: usize, dtype: DType, prune: bool) -> Result<Self> {
        let config = ClipConfig::vit_b16();
        let Settings { training, loss, .. } = Settings::of(Preset::Paper, Arch::VitB16);
        let mixtures = Mixtures { prune, ..Mixtures::preset(crate::model::Preset::Paper, &config, GROUPS) };
        let weights = Weights::init(&config, Some(&mixtures), Number::F32, 1)?;
        let adam = Adam::new(training.adam, &training.trainable, &weights)?;
        let moves = |name: &str| training.trainable.contains(&Module::of(name));
        let moving = weights.iter().filter(|(name, _)| moves(name)).map(|(_, var)| var.elem_count()).sum();
        let computing = match dtype {
            DType::F64 => Number::F64,
            DType::F32 => Number::F32,
            DType::F16 => Number::F16,
            DType::Bf16 => Number::BF16,
        };
        let clip = Clip::new(config, Some(&mixtures), weights)?.computing(computing);
        let pixels: Vec<f32> = (0..samples * 3 * config.image * config.image).map(|i| (i as f32 * 0.37).sin()).collect();
        let pixels = Tensor::from_vec(pixels, (samples, 3, config.image, config.image), &Device::Cpu)?;
        // Notes of some 40 tokens.
        let token = |b: usize, t: usize| if t == 40 + b % 20 { 49407 } else { ((b * 977 + t * 131) % 49000) as u32 };
        let ids = (0..samples).map(|b| (0..config.context).map(|t| token(b, t)).collect()).collect();
        let groups = (0..samples).map(|b| (b % GROUPS) as i64).collect();
        let (loss, gates) = (Fol::new(loss.config())?, loss.choice());
        Ok(Self { clip, adam, moving, loss, gates, pixels, ids, groups, total: None, gradients: None })
    }

    /// How many parameters it trains.
    pub fn parameters(&self) -> usize {
        self.moving
    }

    fn forward(&mut self) -> Result<()> {
        let out = self.clip.forward(&self.pixels, &self.ids)?;
        let groups = TensorGroups::Ids { ids: &self.groups, count: GROUPS };
        self.total = Some(fol(&self.loss, &out.loss_input(&self.gates)?, groups)?.total);
        Ok(())
    }
}

impl Work for StepWork {
    fn parts(&self) -> &'static [Part] {
        &[(Stage::Step, Pass::Forward), (Stage::Step, Pass::Backward), (Stage::Adam, Pass::Backward)]
    }

    fn run(&mut self, (stage, pass): Part) -> Result<()> {
        let missing = || Error::Refused("a step's parts must run one after the other".into());
        match (stage, pass) {
            (Stage::Step, Pass::Forward) => self.forward(),
            (Stage::Step, _) => {
                self.gradients = None;
                self.gradients = Some(self.total.as_ref().ok_or_else(missing)?.backward()?);
                Ok(())
            }
            _ => {
                // What a training step no longer holds when its optimiser runs.
                self.total = None;
                self.adam.step(self.clip.weights(), self.gradients.as_ref().ok_or_else(missing)?, 1e-5)
            }
        }
    }

    /// Of the towers' products alone; Adam reads four numbers of each parameter and writes three.
    fn cost(&self, (stage, pass): Part) -> Cost {
        if stage == Stage::Adam {
            return Cost { flops: 0.0, bytes: 28.0 * self.moving as f64 };
        }
        let config = self.clip.config();
        let parameters = self.clip.weights().iter().map(|(_, var)| var.elem_count()).sum::<usize>() as f64;
        let tower = |tokens: usize, width: usize, layers: usize| {
            let (rows, width, layers) = ((tokens * self.ids.len()) as f64, width as f64, layers as f64);
            2.0 * rows * width * (width * (12.0 * layers - 8.0) + 2.0 * layers * tokens as f64)
        };
        let (vision, text) = (config.vision, config.text);
        let flops = tower(config.image_tokens(), vision.width, vision.layers) + tower(config.context, text.width, text.layers);
        let times = if pass == Pass::Backward { 2.0 } else { 1.0 };
        Cost { flops: times * flops, bytes: times * 4.0 * parameters }
    }
}
