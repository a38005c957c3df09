//! A model's parameters from a file, and from what stands in for those that the file lacks.

use super::Checkpoint;
use super::entry::Entry;
use super::names::Arranged;
use super::report::{Instead, LoadReport, WrongShape};
use crate::config::MoeConfig;
use crate::error::{Error, Result};
use crate::model::weights::{Kind, Part, Weights, hash, plan};
use crate::model::{ClipConfig, Mixtures};
use crate::parameters::Param;
use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

/// What the experts of a token mixture start from where the file has none: random values, or copies of an MLP of the same tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertsFrom {
    /// Random values.
    Fresh,
    /// The MLP that the mixture replaces.
    #[default]
    Replaced,
    /// The MLP of this block. The published code has 11 for either tower.
    Layer(usize),
}

impl Weights {
    /// A model's parameters from a file, in `dtype`. A mixture's parameter that the file lacks, or has in another shape, starts
    /// from `experts_from`, or else fresh, from `seed`; no other parameter may be missing.
    ///
    /// # Errors
    /// When the configuration is out of range, the file cannot be read, or it does not fit the model: then all that is missing
    /// or of another shape is listed.
    pub fn from_checkpoint(
        config: &ClipConfig,
        mixtures: Option<&Mixtures>,
        dtype: DType,
        checkpoint: &Checkpoint,
        experts_from: ExpertsFrom,
        seed: u64,
    ) -> Result<(Self, LoadReport)> {
        Self::load(config, mixtures, dtype, &Loader { checkpoint, experts_from: Some(experts_from) }, seed)
    }

    /// [`Weights::from_checkpoint`] of a file that must hold every parameter; nothing is made before that is known.
    pub(crate) fn whole(
        config: &ClipConfig,
        mixtures: Option<&Mixtures>,
        dtype: DType,
        checkpoint: &Checkpoint,
    ) -> Result<(Self, LoadReport)> {
        Self::load(config, mixtures, dtype, &Loader { checkpoint, experts_from: None }, 0)
    }

    fn load(
        config: &ClipConfig,
        mixtures: Option<&Mixtures>,
        dtype: DType,
        loader: &Loader<'_>,
        seed: u64,
    ) -> Result<(Self, LoadReport)> {
        let plan = plan(config, mixtures)?;
        let report = loader.report(&plan)?;
        report.check(&loader.checkpoint.path)?;
        let read = |(name, kind): (&String, &Kind)| {
            let tensor = loader.read(&report, name, kind, seed, dtype)?;
            Ok((name.clone(), Var::from_tensor(&tensor)?))
        };
        let vars = plan.iter().map(read).collect::<Result<BTreeMap<_, _>>>()?;
        Ok((Self { vars, plan, constants: None }, report))
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    /// What experts start from where the file has none; none: a mixture may lack nothing either.
    experts_from: Option<ExpertsFrom>,
}

impl Loader<'_> {
    /// What will become of every parameter and every key, from shapes alone.
    fn report(&self, plan: &BTreeMap<String, Kind>) -> Result<LoadReport> {
        let Arranged { entries, buffers, unknown } = &self.checkpoint.arranged;
        let mut report = LoadReport { buffers: buffers.clone(), ..LoadReport::default() };
        for (name, kind) in plan {
            for Part { name: part, shape, param } in kind.parts(name)? {
                let found = entries.get(&part).map(|entry| (entry.keys.clone(), entry.shape()));
                if let Some((keys, _)) = found.clone().filter(|(_, found)| *found == shape) {
                    report.matched.insert(part, keys);
                    continue;
                }
                let instead = match (kind, param) {
                    (Kind::Mixture(moe), Some(param)) => self.substitute(name, param, moe)?,
                    _ => Instead::Nothing,
                };
                match found {
                    Some((keys, found)) => {
                        drop(report.wrong_shape.insert(part, WrongShape { keys, expected: shape, found, instead }));
                    }
                    None => drop(report.missing.insert(part, instead)),
                }
            }
        }
        let wrong = report.wrong_shape.values().flat_map(|wrong| &wrong.keys);
        let seen: BTreeSet<&String> = report.matched.values().flatten().chain(wrong).collect();
        let all: BTreeSet<&String> = entries.values().flat_map(|entry| &entry.keys).chain(unknown).collect();
        report.unused = all.difference(&seen).copied().cloned().collect();
        Ok(report)
    }

    /// What a parameter of a mixture starts from where the file has none that fits.
    fn substitute(&self, mixture: &str, param: Param, moe: &MoeConfig) -> Result<Instead> {
        let Some(experts_from) = self.experts_from else { return Ok(Instead::Nothing) };
        let (map, shape) = match param {
            Param::ExpertsFc1Weight | Param::SharedFc1Weight => ("fc1.weight", vec![moe.experts.width, moe.width]),
            Param::ExpertsFc1Bias | Param::SharedFc1Bias => ("fc1.bias", vec![moe.experts.width]),
            Param::ExpertsFc2Weight | Param::SharedFc2Weight => ("fc2.weight", vec![moe.width, moe.experts.width]),
            Param::ExpertsFc2Bias | Param::SharedFc2Bias => ("fc2.bias", vec![moe.width]),
            _ => return Ok(Instead::Fresh),
        };
        // A feature mixture replaces nothing.
        let Some((tower, replaced)) = mixture.strip_suffix(".mlp").and_then(|block| block.rsplit_once('.')) else {
            return Ok(Instead::Fresh);
        };
        let source = match experts_from {
            ExpertsFrom::Fresh => return Ok(Instead::Fresh),
            ExpertsFrom::Replaced => format!("{tower}.{replaced}.mlp.{map}"),
            ExpertsFrom::Layer(layer) => format!("{tower}.{layer}.mlp.{map}"),
        };
        let found = self.checkpoint.arranged.entries.get(&source).map(Entry::shape);
        let why = match found {
            _ if moe.experts.gated => "gated experts have a map more than an MLP".to_owned(),
            None => format!("{source} is not in the file"),
            Some(found) if found != shape => format!("{source} must have the shape {shape:?}, but has {found:?}"),
            Some(_) => return Ok(Instead::Copy(source)),
        };
        Err(Error::file(&self.checkpoint.path, format!("the experts of {mixture} cannot start as copies of an MLP: {why}")))
    }

    fn parameter(&self, name: &str) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor(name)?;
        if !tensor.dtype().is_float() {
            let why = format!("{name} must be floating-point numbers, but is {}", tensor.dtype().as_str());
            return Err(Error::file(&self.checkpoint.path, why));
        }
        Ok(tensor)
    }

    /// One parameter of the model; all of a mixture's behind each other.
    fn read(&self, report: &LoadReport, name: &str, kind: &Kind, seed: u64, dtype: DType) -> Result<Tensor> {
        let fresh = LazyCell::new(|| kind.init(seed ^ hash(name)));
        let (mut flat, mut start) = (vec![], 0);
        for Part { name, shape, .. } in kind.parts(name)? {
            let length: usize = shape.iter().product();
            let instead = report.missing.get(&name).or(report.wrong_shape.get(&name).map(|wrong| &wrong.instead));
            let tensor = match instead {
                None => self.parameter(&name)?.to_dtype(dtype)?,
                Some(Instead::Copy(source)) => self.parameter(source)?.to_dtype(dtype)?.broadcast_as(&shape[..])?.contiguous()?,
                Some(_) => {
                    let fresh = fresh.as_ref().map_err(|e| Error::Refused(e.to_string()))?;
                    Tensor::from_slice(&fresh[start..start + length], &shape[..], &Device::Cpu)?.to_dtype(dtype)?
                }
            };
            start += length;
            flat.push(tensor);
        }
        match (kind, &flat[..]) {
            (Kind::Mixture(_), parts) => {
                let parts = parts.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
                Ok(Tensor::cat(&parts, 0)?)
            }
            (_, [whole]) => Ok(whole.clone()),
            _ => Err(Error::Refused(format!("{name} has several parts, but is no mixture"))),
        }
    }
}
