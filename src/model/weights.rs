//! A model's parameters: their names, shapes, initialisation, and their way in and out of files.

use super::config::{ClipConfig, TowerConfig};
use super::mixtures::Mixtures;
use crate::config::MoeConfig;
use crate::error::{Error, Result, product};
use crate::parameters::{Param, Parameters, flat_len};
use candle_core::{DType, Device, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::collections::BTreeMap;

/// Every parameter of a model by name, each a candle `Var`. All parameters of one mixture are one flat `Var`, named after the
/// mixture; in files they stand under names of their own.
#[derive(Clone, Debug)]
pub struct Weights {
    pub(super) vars: BTreeMap<String, Var>,
    pub(super) plan: BTreeMap<String, Kind>,
    /// The same values as constants, which the model reads instead.
    pub(super) constants: Option<BTreeMap<String, Tensor>>,
}

/// What a parameter is, and how it starts.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Normally distributed around 0.
    Normal { shape: Vec<usize>, deviation: f64 },
    /// One value throughout.
    Constant { shape: Vec<usize>, value: f64 },
    /// All parameters of a mixture.
    Mixture(MoeConfig),
}

/// A parameter as it stands in files.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Which of a mixture's it is.
    pub(super) param: Option<Param>,
}

impl Weights {
    /// Fresh parameters, as CLIP and PyTorch initialise them. Equal seeds give equal values, and a parameter's values depend on
    /// nothing but its name, its shape and the seed.
    ///
    /// # Errors
    /// When the configuration is out of range.
    pub fn init(config: &ClipConfig, mixtures: Option<&Mixtures>, dtype: DType, seed: u64) -> Result<Self> {
        let plan = plan(config, mixtures)?;
        let fresh = |(name, kind): (&String, &Kind)| {
            let tensor = Tensor::from_vec(kind.init(seed ^ hash(name))?, kind.shape()?, &Device::Cpu)?;
            Ok((name.clone(), Var::from_tensor(&tensor.to_dtype(dtype)?)?))
        };
        Ok(Self { vars: plan.iter().map(fresh).collect::<Result<_>>()?, plan, constants: None })
    }

    /// How many numbers the parameters of such a model are, told without making any.
    ///
    /// # Errors
    /// When the configuration is out of range.
    pub fn count(config: &ClipConfig, mixtures: Option<&Mixtures>) -> Result<usize> {
        plan(config, mixtures)?.values().map(|kind| product("a parameter", &kind.shape()?)).sum()
    }

    /// Parameters from a file's tensors; others among them are left alone.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn import(
        config: &ClipConfig,
        mixtures: Option<&Mixtures>,
        dtype: DType,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let plan = plan(config, mixtures)?;
        let find = |name: &str, shape: &[usize]| {
            let tensor = tensors.get(name).ok_or_else(|| Error::Refused(format!("the tensor {name} is missing")))?;
            if tensor.dims() != shape {
                let got = tensor.dims();
                return Err(Error::Refused(format!("the tensor {name} must have shape {shape:?}, but has {got:?}")));
            }
            Ok(tensor.to_dtype(dtype)?)
        };
        let load = |(name, kind): (&String, &Kind)| {
            let tensor = match kind {
                Kind::Mixture(moe) => {
                    let own = present(moe)
                        .map(|p| find(&format!("{name}.{}", p.name()), &p.shape(moe))?.flatten_all().map_err(Error::from));
                    Tensor::cat(&own.collect::<Result<Vec<_>>>()?, 0)?
                }
                _ => find(name, &kind.shape()?)?,
            };
            Ok((name.clone(), Var::from_tensor(&tensor)?))
        };
        Ok(Self { vars: plan.iter().map(load).collect::<Result<_>>()?, plan, constants: None })
    }

    /// Every parameter under its name in files. `values` chooses what is written for each `Var`: the parameter itself, or
    /// something of the same shape, such as its gradient.
    ///
    /// # Errors
    /// When `values` gives a tensor of another size.
    pub fn export(&self, mut values: impl FnMut(&str, &Var) -> Result<Tensor>) -> Result<BTreeMap<String, Tensor>> {
        let mut out = BTreeMap::new();
        for (name, var) in &self.vars {
            let value = values(name, var)?;
            match &self.plan[name] {
                Kind::Mixture(moe) => {
                    let mut start = 0;
                    for p in present(moe) {
                        let part = value.narrow(0, start, p.len(moe))?.reshape(p.shape(moe))?;
                        out.insert(format!("{name}.{}", p.name()), part);
                        start += p.len(moe);
                    }
                }
                _ => drop(out.insert(name.clone(), value)),
            }
        }
        Ok(out)
    }

    /// The same parameters on another device.
    ///
    /// # Errors
    /// When that has no room for them.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let moved =
            |(name, var): (&String, &Var)| Ok((name.clone(), Var::from_tensor(&var.as_detached_tensor().to_device(device)?)?));
        Ok(Self { vars: self.vars.iter().map(moved).collect::<Result<_>>()?, plan: self.plan.clone(), constants: None })
    }

    /// What they are kept in.
    pub fn dtype(&self) -> DType {
        self.vars.values().next().map_or(DType::F32, |var| var.dtype())
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        // Every model has parameters.
        self.vars.values().next().map_or(&Device::Cpu, |var| var.device())
    }

    /// The parameter of that name.
    pub(super) fn get(&self, name: &str) -> candle_core::Result<&Tensor> {
        let found = match &self.constants {
            Some(constants) => constants.get(name),
            None => self.vars.get(name).map(Var::as_tensor),
        };
        found.ok_or_else(|| candle_core::Error::msg(format!("the model has no parameter {name}")))
    }

    /// The same parameters, shared and not copied, for passes that no gradient flows back from.
    pub(super) fn frozen(&self) -> Self {
        let constants = self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        Self { constants: Some(constants), ..self.clone() }
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }
}

/// The parameters that a mixture has.
fn present(moe: &MoeConfig) -> impl Iterator<Item = Param> {
    Param::ALL.into_iter().filter(|p| p.len(moe) > 0)
}

impl Kind {
    /// What stands in files for the parameter `name`: a mixture's are many, in the order in which its `Var` holds them.
    pub(super) fn parts(&self, name: &str) -> Result<Vec<Part>> {
        let part = |moe: &MoeConfig, p: Param| Part { name: format!("{name}.{}", p.name()), shape: p.shape(moe), param: Some(p) };
        Ok(match self {
            Kind::Mixture(moe) => present(moe).map(|p| part(moe, p)).collect(),
            _ => vec![Part { name: name.to_owned(), shape: self.shape()?, param: None }],
        })
    }

    fn shape(&self) -> Result<Vec<usize>> {
        match self {
            Kind::Normal { shape, .. } | Kind::Constant { shape, .. } => Ok(shape.clone()),
            Kind::Mixture(moe) => Ok(vec![flat_len(moe)?]),
        }
    }

    /// Its values at the start of a training from scratch.
    pub(super) fn init(&self, seed: u64) -> Result<Vec<f64>> {
        Ok(match self {
            Kind::Normal { shape, deviation } => {
                let mut rng = Pcg64::seed_from_u64(seed);
                (0..shape.iter().product()).map(|_| normal(&mut rng) * deviation).collect()
            }
            Kind::Constant { shape, value } => vec![*value; shape.iter().product()],
            Kind::Mixture(moe) => {
                let own = Parameters::<Vec<f64>>::init(moe, seed)?;
                present(moe).flat_map(|p| own[p].clone()).collect()
            }
        })
    }
}

/// A standard normal number, by Box and Muller.
pub(crate) fn normal(rng: &mut Pcg64) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// FNV-1a: the standard library's hash may change from one release to the next.
pub(super) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf29ce484222325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}

/// Every parameter of a model; deviations as in OpenAI's CLIP, logit_scale ln(1/0.07).
pub(super) fn plan(config: &ClipConfig, mixtures: Option<&Mixtures>) -> Result<BTreeMap<String, Kind>> {
    config.check()?;
    let mut plan = BTreeMap::new();
    let mut normal = |name: &str, shape: &[usize], deviation: f64| {
        plan.insert(name.to_owned(), Kind::Normal { shape: shape.to_vec(), deviation });
    };
    let (vision, text) = (config.vision.width, config.text.width);
    let scale = |width: usize| (width as f64).powf(-0.5);
    normal("vision_model.embeddings.class_embedding", &[vision], scale(vision));
    let fan_in = 3 * config.patch * config.patch;
    normal("vision_model.embeddings.patch_embedding.weight", &[vision, 3, config.patch, config.patch], scale(fan_in));
    normal("vision_model.embeddings.position_embedding.weight", &[config.image_tokens(), vision], scale(vision));
    normal("text_model.embeddings.token_embedding.weight", &[config.vocabulary, text], 0.02);
    normal("text_model.embeddings.position_embedding.weight", &[config.context, text], 0.01);
    normal("visual_projection.weight", &[config.embed, vision], scale(vision));
    normal("text_projection.weight", &[config.embed, text], scale(text));
    for norm in ["vision_model.pre_layrnorm", "vision_model.post_layernorm"] {
        add_norm(&mut plan, norm, vision);
    }
    add_norm(&mut plan, "text_model.final_layer_norm", text);
    plan.insert("logit_scale".into(), Kind::Constant { shape: vec![], value: (1.0f64 / 0.07).ln() });
    add_tower(&mut plan, "vision_model", &config.vision, mixtures.map(|m| &m.vision_token))?;
    add_tower(&mut plan, "text_model", &config.text, mixtures.map(|m| &m.text_token))?;
    for (name, moe) in
        mixtures.into_iter().flat_map(|m| [("vision_feature_moe", &m.vision_feature), ("text_feature_moe", &m.text_feature)])
    {
        moe.check()?;
        plan.insert(name.into(), Kind::Mixture(moe.clone()));
    }
    Ok(plan)
}

fn add_norm(plan: &mut BTreeMap<String, Kind>, name: &str, width: usize) {
    plan.insert(format!("{name}.weight"), Kind::Constant { shape: vec![width], value: 1.0 });
    plan.insert(format!("{name}.bias"), Kind::Constant { shape: vec![width], value: 0.0 });
}

fn add_tower(plan: &mut BTreeMap<String, Kind>, tower: &str, config: &TowerConfig, mixture: Option<&MoeConfig>) -> Result<()> {
    let width = config.width;
    let attention = (width as f64).powf(-0.5);
    let residual = attention * (2.0 * config.layers as f64).powf(-0.5);
    for layer in 0..config.layers {
        let block = format!("{tower}.encoder.layers.{layer}");
        let mut linear = |name: &str, out: usize, fan_in: usize, deviation: f64| {
            plan.insert(format!("{block}.{name}.weight"), Kind::Normal { shape: vec![out, fan_in], deviation });
            plan.insert(format!("{block}.{name}.bias"), Kind::Constant { shape: vec![out], value: 0.0 });
        };
        for part in ["q", "k", "v"] {
            linear(&format!("self_attn.{part}_proj"), width, width, attention);
        }
        linear("self_attn.out_proj", width, width, residual);
        match mixture {
            Some(moe) if layer + 1 == config.layers => {
                moe.check()?;
                plan.insert(format!("{block}.mlp"), Kind::Mixture(moe.clone()));
            }
            _ => {
                linear("mlp.fc1", 4 * width, width, (2.0 * width as f64).powf(-0.5));
                linear("mlp.fc2", width, 4 * width, residual);
            }
        }
        add_norm(plan, &format!("{block}.layer_norm1"), width);
        add_norm(plan, &format!("{block}.layer_norm2"), width);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    /// The counts that follow from the published code: CLIP, less the MLPs that are replaced, and the four mixtures.
    #[test]
    fn models_have_as_many_parameters_as_the_published_ones() {
        let count = |config: &ClipConfig, groups: Option<usize>| -> usize {
            let mixtures = groups.map(|groups| Mixtures::preset(Preset::Paper, config, groups));
            let plan = plan(config, mixtures.as_ref()).unwrap();
            plan.values().map(|kind| kind.shape().unwrap().iter().product::<usize>()).sum()
        };
        assert_eq!(count(&ClipConfig::vit_b16(), None), 149_620_737);
        assert_eq!(count(&ClipConfig::vit_l14(), None), 427_616_513);
        assert_eq!(count(&ClipConfig::vit_b16(), Some(3)), 223_966_939);
        assert_eq!(count(&ClipConfig::vit_l14(), Some(3)), 574_707_547);
    }
}
