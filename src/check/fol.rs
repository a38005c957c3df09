//! The loss on a device against the loss in f64 on the CPU, whose stages are held against the reference.

use super::{Difference, Finding, Watch, difference, norm, of_case, relative_l2};
use crate::device::Device;
use crate::error::Result;
use crate::fol::{Distance, Fol, FolBatch, FolConfig, FolState, GateWeights, Groups};
use crate::moe::Layout;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Samples, whether groups are batches of their own, and the loss.
fn cases() -> [(&'static str, usize, bool, FolConfig); 4] {
    let blunt = Distance::Sinkhorn { blur: 0.05, scaling: 0.5 };
    let heavy = |config| FolConfig { lambda_distance: 0.6, lambda_dispersion: 0.9, lambda_batch_variance: 0.7, ..config };
    let gradients = |config| FolConfig { group_gradient: true, ..heavy(config) };
    [
        ("paper", 32, false, heavy(FolConfig::paper())),
        ("authors", 32, true, FolConfig { distance: blunt, ..heavy(FolConfig::authors()) }),
        ("gradients on groups", 13, true, gradients(FolConfig::paper())),
        ("gradients on groups by id", 37, false, FolConfig { distance: blunt, ..gradients(FolConfig::paper()) }),
    ]
}

/// T, E and G.
const SIZES: (usize, usize, usize) = (3, 5, 3);

/// A batch of values that f32 holds exactly.
struct Batch {
    similarity: Vec<f64>,
    weights: Vec<f64>,
    samples: usize,
}

impl Batch {
    fn random(rng: &mut Pcg64, samples: usize) -> Self {
        let mut values = |n: usize| (0..n).map(|_| f64::from(rng.random::<f32>())).collect::<Vec<f64>>();
        let mut similarity = values(samples * samples);
        // A sum of correlations that is nearly 0 is a matter of its last digits.
        similarity.iter_mut().step_by(samples + 1).for_each(|v| *v = f64::from((1.0 + *v) as f32));
        Self { similarity, weights: values(SIZES.0 * samples * SIZES.1), samples }
    }
}

/// Checks the whole loss in f32: terms, what is found of batch and groups, and gradients. Bounds: 2e-5; behind Sinkhorn 1e-4.
///
/// # Errors
/// Those of the loss, with the case's name.
pub fn check_fol(device: &Device, watch: &mut dyn Watch) -> Result<()> {
    for (seed, (case, samples, separate, config)) in (0..).zip(cases()) {
        if !watch.begin(case) {
            continue;
        }
        let bound = if config.distance == Distance::Exact { 2e-5 } else { 1e-4 };
        let mut rng = Pcg64::seed_from_u64(seed);
        let batch = Batch::random(&mut rng, samples);
        let others: Vec<Batch> = (0..if separate { SIZES.2 } else { 0 }).map(|g| Batch::random(&mut rng, samples + g)).collect();
        let got = run::<f32>(&config, device, &batch, &others).map_err(|why| of_case(case, &why))?;
        let wanted = run::<f64>(&config, &Device::cpu(), &batch, &others)?;
        let (state, want) = (&got.state, &wanted.state);
        let mut find = |pass, what, difference: Difference| {
            let Difference { error, at } = difference;
            watch.find(Finding { stage: "fol", pass, case, what, error, bound, at });
        };
        let terms = |s: &FolState| [s.terms.total, s.terms.clip, s.terms.distance, s.terms.dispersion, s.terms.batch_variance];
        find("forward", "terms", relative_l2(&terms(state), &terms(want)));
        find("forward", "correlation", relative_l2(&state.correlation, &want.correlation));
        find("forward", "variance", relative_l2(&state.variance.concat(), &want.variance.concat()));
        let distances = |s: &FolState| s.groups.iter().flatten().map(|g| g.distance).collect::<Vec<f64>>();
        find("forward", "distances", relative_l2(&distances(state), &distances(want)));
        let variances = |s: &FolState| s.groups.iter().flatten().flat_map(|g| g.variance.concat()).collect::<Vec<f64>>();
        find("forward", "groups' variances", relative_l2(&variances(state), &variances(want)));
        let floor = norm(&wanted.dsimilarity).max(norm(&wanted.dweights)) / 1000.0;
        let gradient = |got: &[f64], want: &[f64]| difference(got, want).over(norm(want).max(floor));
        find("backward", "dsimilarity", gradient(&got.dsimilarity, &wanted.dsimilarity));
        find("backward", "dweights", gradient(&got.dweights, &wanted.dweights));
    }
    Ok(())
}

/// What both passes gave: gradients on similarities and on weights, the batch's first.
struct Passes {
    state: FolState,
    dsimilarity: Vec<f64>,
    dweights: Vec<f64>,
}

fn run<W: crate::Float>(config: &FolConfig, device: &Device, batch: &Batch, others: &[Batch]) -> Result<Passes> {
    let narrow = |v: &[f64]| v.iter().map(|&v| W::from_f64(v)).collect::<Vec<W>>();
    let (tokens, experts, count) = SIZES;
    let all: Vec<_> =
        std::iter::once(batch).chain(others).map(|b| (narrow(&b.similarity), narrow(&b.weights), b.samples)).collect();
    let gate = |weights| [GateWeights { weights, experts, layout: Layout::TokensFirst, row_mask: None }];
    let gates: Vec<[GateWeights<'_, W>; 1]> = all.iter().map(|b| gate(b.1.as_slice())).collect();
    let views: Vec<FolBatch<'_, W>> =
        all.iter().zip(&gates).map(|(b, gates)| FolBatch { similarity: &b.0, scale: 3.0, samples: b.2, gates }).collect();
    let ids: Vec<i64> = (0..batch.samples).map(|b| (b * 7 + b / tokens) as i64 % (count as i64 + 1) - 1).collect();
    let groups = if others.is_empty() { Groups::Ids { ids: &ids, count } } else { Groups::Separate(&views[1..]) };
    let fol = Fol::on(config.clone(), device.clone())?;
    let state = fol.forward(&views[0], &groups)?;
    let gradients = fol.backward(&views[0], &groups, &state, 1.5)?;
    let every = std::iter::once(&gradients).chain(&gradients.groups);
    let dweights = every.clone().flat_map(|g| g.dweights.concat());
    let wide = |values: Vec<W>| values.iter().map(|v| v.to_f64()).collect();
    let dsimilarity = wide(every.flat_map(|g| g.dsimilarity.clone()).collect());
    Ok(Passes { dsimilarity, dweights: wide(dweights.collect()), state })
}
