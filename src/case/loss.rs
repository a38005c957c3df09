//! Cases of kinds `fol` and `group_moments`.

use super::{Case, Results, check_room};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::Result;
use crate::fol::{Distance, Fol, FolBatch, FolConfig, GateWeights, Groups};
use crate::gpu;
use crate::moe::Layout;
use crate::moments;

/// What one batch of a case holds: the case's own, or a group's.
struct Batch<W> {
    logits: Vec<W>,
    samples: usize,
    /// Each gate's weights, with their shape.
    gates: Vec<(Vec<usize>, Vec<W>)>,
}

impl<W: Float> Batch<W> {
    /// Takes `{prefix}logits` [samples, samples] and the `{prefix}weights{i}` [rows, E] of every gate.
    fn take(case: &mut Case, prefix: &str, samples: usize, gates: usize) -> Result<Self> {
        let logits = case.floats(&format!("{prefix}logits"), &[samples, samples])?;
        let gate = |i| {
            let name = format!("{prefix}weights{i}");
            let shape = case.shape(&name, 2)?;
            case.floats(&name, &shape).map(|weights| (shape, weights))
        };
        Ok(Self { logits, samples, gates: (0..gates).map(gate).collect::<Result<_>>()? })
    }

    fn gates(&self) -> Vec<GateWeights<'_, W>> {
        // The order of the rows is not asked for: each group is a batch of its own.
        let gates = self.gates.iter();
        gates.map(|(s, weights)| GateWeights { weights, experts: s[1], layout: Layout::TokensFirst, row_mask: None }).collect()
    }
}

/// The loss as published (preset `authors`) with the case's weights, without the cross entropy, which is only reported.
pub(super) fn fol<W: Float>(case: &mut Case, device: &Device) -> Result<Results> {
    let (samples, layers, groups) = (case.size("samples")?, case.size("layers")?, case.size("groups")?);
    if case.has_setting("p") && case.number("p")? != 2.0 {
        return Err(case.error(format!("setting p must be 2, but is {}", case.number("p")?)));
    }
    let lambda_dispersion = case.number("lambda_dispersion")?;
    let config = FolConfig {
        lambda_clip: 0.0,
        lambda_distance: case.number("lambda_distance")?,
        lambda_dispersion,
        lambda_batch_variance: lambda_dispersion,
        distance: Distance::Sinkhorn { blur: case.number("blur")?, scaling: case.number("scaling")? },
        ..FolConfig::authors()
    };
    let fol = Fol::on(config, device.clone()).map_err(|why| case.error(why))?;

    let main = Batch::<W>::take(case, "", samples, layers)?;
    let mut others = vec![];
    for g in 0..groups {
        let prefix = format!("group{g}.");
        // Groups may differ in size; without the setting, each tells its own.
        let size = if case.has_setting("group_samples") {
            case.size("group_samples")?
        } else {
            case.shape(&format!("{prefix}logits"), 2)?[0]
        };
        others.push(Batch::<W>::take(case, &prefix, size, layers)?);
    }
    let (main_gates, other_gates) = (main.gates(), others.iter().map(Batch::gates).collect::<Vec<_>>());
    let batch = FolBatch { similarity: &main.logits, scale: 1.0, samples: main.samples, gates: &main_gates };
    let separate = others.iter().zip(&other_gates);
    let separate = separate.map(|(b, gates)| FolBatch { similarity: &b.logits, scale: 1.0, samples: b.samples, gates });
    let separate: Vec<_> = separate.collect();
    let groups = Groups::Separate(&separate);
    let state = fol.forward(&batch, &groups)?;
    let gradients = fol.backward(&batch, &groups, &state, 1.0)?;

    let mut results = Results::default();
    results.put("correlation", &[samples], &state.correlation);
    results.put_number("clip_loss", state.clip_loss);
    results.put_number("fol", state.terms.total);
    put_dispersions(&mut results, "", &state.variance);
    for (g, (group, other)) in state.groups.iter().zip(&others).enumerate() {
        let Some(group) = group else { continue };
        results.put(format!("group{g}.correlation_normalised"), &[other.samples], &group.correlation);
        results.put_number(format!("group{g}.sinkhorn"), group.distance);
        put_dispersions(&mut results, &format!("group{g}."), &group.variance);
    }
    results.put("d.logits", &[samples, samples], &gradients.dsimilarity);
    for (i, (dweights, (shape, _))) in gradients.dweights.iter().zip(&main.gates).enumerate() {
        results.put(format!("d.weights{i}"), shape, dweights);
    }
    Ok(results)
}

/// Each gate's dispersion: the mean over experts of their weights' variance.
fn put_dispersions(results: &mut Results, prefix: &str, variance: &[Vec<f64>]) {
    for (i, variance) in variance.iter().enumerate() {
        let mean = variance.iter().sum::<f64>() / variance.len() as f64;
        results.put_number(format!("{prefix}dispersion{i}"), mean);
    }
}

/// Moments of groups of rows; with gradients on mean or variance, theirs on x.
pub(super) fn group_moments<W: Float>(case: &mut Case, device: &Device) -> Result<Results> {
    let (rows, columns, groups) = (case.size("rows")?, case.size("columns")?, case.size("groups")?);
    let x: Vec<W> = case.floats("x", &[rows, columns])?;
    let group = case.integers("group", &[rows])?;
    let of_groups = [groups, columns];
    // Before anything of that size is made: a setting can ask for far more than the file holds.
    let mut held = case.agrees("count", &[groups])?;
    for name in ["mean", "variance", "dmean", "dvariance"] {
        held |= case.agrees(name, &of_groups)?;
    }
    if !held {
        check_room::<f64>("the groups' moments", &of_groups)?;
    }
    let mut upstream = |name: &str| case.has(name).then(|| case.floats::<f64>(name, &of_groups)).transpose();
    let (dmean, dvariance) = (upstream("dmean")?, upstream("dvariance")?);

    let moments = match device.driver() {
        None => moments::forward(&x, columns, &group, groups),
        Some(gpu) => gpu::moments::host_forward(gpu, &x, columns, &group, groups),
    };
    let moments = moments.map_err(|why| case.error(why))?;
    let mut results = Results::default();
    let count: Vec<f64> = moments.count.iter().map(|&n| n as f64).collect();
    results.put("count", &[groups], &count);
    results.put("mean", &of_groups, &moments.mean);
    results.put("variance", &of_groups, &moments.variance);
    if dmean.is_some() || dvariance.is_some() {
        let zeros = vec![0.0; moments.mean.len()];
        let (dmean, dvariance) = (dmean.as_deref().unwrap_or(&zeros), dvariance.as_deref().unwrap_or(&zeros));
        let dx = match device.driver() {
            None => {
                let mut dx = vec![W::ZERO; x.len()];
                moments::backward(&x, columns, &group, &moments, dmean, dvariance, &mut dx).map(|()| dx)
            }
            Some(gpu) => gpu::moments::host_backward(gpu, &x, columns, &group, &moments, dmean, dvariance),
        }?;
        results.put("dx", &[rows, columns], &dx);
    }
    Ok(results)
}
