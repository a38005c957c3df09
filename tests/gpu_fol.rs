//! The loss on the emulated device, against recorded cases and the f64 path.
#![cfg(feature = "emulate")]
#![allow(unsafe_code)]

mod support;

use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::fol::{self, DeviceBatch, DeviceGate, DeviceGradients, DeviceGroups, Memory, Problem};
use fair_moe::gpu::moments;
use fair_moe::*;
use support::gpu::{Gpu, some_of};
use support::loss::{BatchData, Grouping, Loss, flat};
use support::{Case, assert_close};

type Passes = (FolState, FolGradients<f32>);

fn on(gpu: &Gpu, loss: &Loss, upstream: f64) -> Result<Passes> {
    let device = Device::of("emulated", gpu.driver.clone());
    loss.run::<f32, _>(|fol, batch, groups| {
        let fol = Fol::on(fol.config().clone(), device)?;
        let state = fol.forward(batch, groups)?;
        let gradients = fol.backward(batch, groups, &state, upstream)?;
        Ok((state, gradients))
    })
}

fn all(gradients: &FolGradients<impl Float>) -> Vec<f64> {
    std::iter::once(gradients).chain(&gradients.groups).flat_map(flat).collect()
}

/// The loss with its inputs rounded to f32, so that f64 starts from the same.
fn rounded(loss: &Loss) -> Loss {
    let mut always = loss.clone();
    always.config.group_gradient = true;
    let numbers: Vec<f64> = always.numbers().iter().map(|&v| f64::from(v as f32)).collect();
    Loss { config: loss.config.clone(), ..always.with(&numbers) }
}

/// State and gradients agree with the CPU's in f64, warnings and all.
fn check(gpu: &Gpu, loss: &Loss, bound: f64) {
    let loss = rounded(loss);
    let (want, wanted) = loss.backward::<f64>(1.5).unwrap();
    let (state, gradients) = on(gpu, &loss, 1.5).unwrap();
    let what = |part: &str| format!("{part} of {:?} on {gpu:?}", loss.config);
    let near = |part: &str, got: f64, want: f64| {
        assert!((got - want).abs() <= bound * want.abs() + 1e-12, "{}: {got} {want}", what(part))
    };
    near("clip loss", state.clip_loss, want.clip_loss);
    near("total", state.terms.total, want.terms.total);
    near("clip", state.terms.clip, want.terms.clip);
    near("distance", state.terms.distance, want.terms.distance);
    near("dispersion", state.terms.dispersion, want.terms.dispersion);
    near("batch variance", state.terms.batch_variance, want.terms.batch_variance);
    assert_close(&what("correlation"), &state.correlation, &want.correlation, bound);
    assert_close(&what("variance"), &state.variance.concat(), &want.variance.concat(), bound);
    assert_eq!(state.warnings, want.warnings);
    assert_eq!(state.groups.len(), want.groups.len());
    for (got, want) in state.groups.iter().zip(&want.groups) {
        assert_eq!(got.is_some(), want.is_some());
        if let (Some(got), Some(want)) = (got, want) {
            near("a group's distance", got.distance, want.distance);
            assert_close(&what("a group's correlation"), &got.correlation, &want.correlation, bound);
            assert_close(&what("a group's variance"), &got.variance.concat(), &want.variance.concat(), bound);
        }
    }
    assert_close(&what("gradients"), &all(&gradients), &all(&wanted), bound);
    let dsimilarity: Vec<f64> = gradients.dsimilarity.iter().map(|&d| d.into()).collect();
    assert_close(&what("dsimilarity"), &dsimilarity, &wanted.dsimilarity, bound);
    let dweights: Vec<f64> = gradients.dweights.concat().iter().map(|&d| d.into()).collect();
    assert_close(&what("dweights"), &dweights, &wanted.dweights.concat(), bound);
}

fn random(seed: u64, ids: bool) -> Loss {
    let groups = match ids {
        true => Grouping::Ids(vec![1, 0, -1, 1, 0, 1], 2),
        false => Grouping::Separate(vec![BatchData::random(seed + 10, 4, 2), BatchData::random(seed + 20, 6, 3)]),
    };
    Loss { config: FolConfig { lambda_dispersion: 0.9, ..FolConfig::paper() }, batch: BatchData::random(seed, 6, 3), groups }
}

fn configs() -> Vec<FolConfig> {
    let mut configs = vec![];
    for dispersion in [Dispersion::PerExpert, Dispersion::MeanFirst] {
        for correlation in [Correlation::Diagonal, Correlation::DiagonalOfSquare] {
            for (normalise, lambda_batch_variance) in [(Normalise::None, 0.7), (Normalise::GroupSum, 0.0)] {
                for distance in [Distance::Exact, Distance::Sinkhorn { blur: 0.05, scaling: 0.5 }] {
                    for group_gradient in [true, false] {
                        let lambdas =
                            FolConfig { lambda_clip: 0.8, lambda_distance: 0.6, lambda_dispersion: 0.9, ..FolConfig::paper() };
                        let axes = FolConfig { dispersion, correlation, normalise, distance, group_gradient, ..lambdas };
                        configs.push(FolConfig { lambda_batch_variance, ..axes });
                    }
                }
            }
        }
    }
    configs
}

#[test]
fn every_axis_agrees_with_f64() {
    for (seed, config) in some_of(5, configs().into_iter().enumerate()) {
        let bound = if config.distance == Distance::Exact { 2e-5 } else { 1e-4 };
        for ids in [false, true] {
            let mut loss = Loss { config: config.clone(), ..random(100 * seed as u64, ids) };
            loss.batch.gates[0].layout = if seed % 2 == 0 { Layout::TokensFirst } else { Layout::SamplesFirst };
            if seed % 3 == 0 {
                loss.batch.gates[0].row_mask = Some((0..18).map(|row| row % 5 != 0).collect());
            }
            check(&Gpu::new(seed as u64 % 6), &loss, bound);
        }
    }
}

#[test]
fn any_number_of_samples_and_groups() {
    let sizes = [(1, 1), (2, 0), (7, 3), (64, 3), (64, 20), (7, 1)];
    for (seed, (samples, groups)) in some_of(5, sizes.into_iter().enumerate()) {
        for gpu in Gpu::some(seed as u64) {
            for config in [FolConfig::paper(), FolConfig { group_gradient: true, ..FolConfig::authors() }] {
                let config = FolConfig { lambda_distance: 0.5, lambda_dispersion: 0.5, ..config };
                let ids: Vec<i64> = (0..samples).map(|b| (b * 7 + b / 3) as i64 % (groups as i64 + 1) - 1).collect();
                let mut batch = BatchData::random(seed as u64, samples, 2);
                // A sum of correlations that is nearly 0 is a matter of its last digits.
                (0..samples).for_each(|b| batch.similarity[b * (samples + 1)] = 1.0 + 0.3 * batch.similarity[b * (samples + 1)]);
                let blunt = Distance::Sinkhorn { blur: 0.1, scaling: 0.5 };
                let distance = if config.distance == Distance::Exact { Distance::Exact } else { blunt };
                check(&gpu, &Loss { config: FolConfig { distance, ..config }, batch, groups: Grouping::Ids(ids, groups) }, 1e-4);
            }
        }
    }
}

#[test]
fn small_groups_warn() {
    let mut loss = random(5, true);
    loss.groups = Grouping::Ids(vec![0, 2, 2, 0, 0, 3], 4);
    loss.config.group_gradient = true;
    check(&Gpu::new(1), &loss, 2e-5);
    loss.batch.gates[0].row_mask = Some((0..18).map(|row| row % 6 != 5).collect());
    check(&Gpu::new(2), &loss, 2e-5);
    loss.groups = Grouping::Separate(vec![BatchData::random(1, 0, 3), BatchData::random(2, 4, 3)]);
    check(&Gpu::new(3), &loss, 2e-5);
    loss.groups = Grouping::Separate(vec![]);
    check(&Gpu::new(3), &loss, 2e-5);
    loss.batch = BatchData::random(4, 1, 1);
    check(&Gpu::new(4), &loss, 2e-5);
    loss.batch.gates.clear();
    check(&Gpu::new(4), &loss, 2e-5);
}

#[test]
fn recorded_cases() {
    for name in ["fol_race", "fol_strong"] {
        let case = Case::load(name);
        for gpu in Gpu::seeds() {
            let (state, gradients) = on(&gpu, &Loss::recorded(&case), 1.0).unwrap();
            let close = |what: &str, got: &[f64], bound: f64| assert_close(&format!("{name} {what}"), got, case.get(what), bound);
            let mean = |variance: &[f64]| [variance.iter().sum::<f64>() / variance.len() as f64];
            close("clip_loss", &[state.clip_loss], 2e-5);
            close("correlation", &state.correlation, 2e-5);
            close("fol", &[state.terms.total], 2e-5);
            for (g, group) in state.groups.iter().enumerate() {
                let group = group.as_ref().unwrap();
                close(&format!("group{g}.correlation_normalised"), &group.correlation, 2e-5);
                close(&format!("group{g}.sinkhorn"), &[group.distance], 2e-5);
                (0..2).for_each(|i| close(&format!("group{g}.dispersion{i}"), &mean(&group.variance[i]), 2e-5));
            }
            let wide = |values: &[f32]| values.iter().map(|&v| v.into()).collect::<Vec<f64>>();
            close("d.logits", &wide(&gradients.dsimilarity), 1e-4);
            for i in 0..2 {
                close(&format!("dispersion{i}"), &mean(&state.variance[i]), 2e-5);
                close(&format!("d.weights{i}"), &wide(&gradients.dweights[i]), 2e-5);
            }
        }
    }
}

/// A state that one device left is good on another.
#[test]
fn states_are_exchanged_with_the_cpu() {
    for ids in [false, true] {
        let config = FolConfig { lambda_batch_variance: 0.3, lambda_distance: 0.5, group_gradient: true, ..FolConfig::paper() };
        let loss = rounded(&Loss { config, ..random(9, ids) });
        let device = Device::of("emulated", Gpu::new(2).driver);
        loss.run::<f32, _>(|cpu, batch, groups| {
            let gpu = Fol::on(cpu.config().clone(), device)?;
            let states = [cpu.forward(batch, groups)?, gpu.forward(batch, groups)?];
            let want = cpu.backward(batch, groups, &states[0], 2.0)?;
            for (fol, state) in [(cpu, &states[1]), (&gpu, &states[0]), (&gpu, &states[1])] {
                assert_close("gradients", &all(&fol.backward(batch, groups, state, 2.0)?), &all(&want), 2e-5);
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_weight_of_zero_switches_its_term_off() {
    let off =
        FolConfig { lambda_clip: 0.0, lambda_distance: 0.0, lambda_dispersion: 0.0, group_gradient: true, ..FolConfig::paper() };
    for ids in [false, true] {
        let mut loss = Loss { config: off.clone(), ..random(6, ids) };
        loss.batch.similarity[1] = f64::NAN;
        loss.batch.gates[0].weights[2] = f64::NAN;
        let (state, gradients) = on(&Gpu::new(1), &loss, 1.0).unwrap();
        assert_eq!(state.terms, FolTerms::default());
        assert!(all(&gradients).iter().all(|&d| d == 0.0));
        loss.config.lambda_clip = 1.0;
        let (state, gradients) = on(&Gpu::new(1), &loss, 1.0).unwrap();
        assert!(state.terms.total.is_nan() && gradients.dweights.concat().iter().all(|&d| d == 0.0));
    }
}

#[test]
fn what_a_gpu_does_not_do_is_an_error() {
    let gpu = Gpu::new(0);
    let device = Device::of("emulated", gpu.driver.clone());
    let refused =
        random(1, true).run::<f64, _>(|fol, batch, groups| Fol::on(fol.config().clone(), device)?.forward(batch, groups));
    let want = "on a GPU the loss is computed from f32, not from f64; the CPU does that";
    assert_eq!(refused.unwrap_err().to_string(), want);
    let mut many = random(1, true);
    many.batch = BatchData::random(1, 4097, 1);
    many.groups = Grouping::Ids(vec![0; 4097], 1);
    let message = on(&gpu, &many, 1.0).unwrap_err().to_string();
    assert_eq!(message, "the number of samples that transport compares must be from 1 to 4096 on a GPU, but is 4097");
}

/// What a caller with everything on the device holds.
struct Held {
    floats: Vec<Buffer<f32>>,
    ids: Vec<Buffer<i32>>,
}

impl Held {
    fn batch(&mut self, gpu: &Gpu, data: &BatchData) -> DeviceBatch {
        let mut put = |values: &[f64]| {
            self.floats.push(gpu.put(&values.iter().map(|&v| v as f32).collect::<Vec<_>>()));
            self.floats.last().unwrap().pointer()
        };
        let gates = data.gates.iter().map(|gate| DeviceGate {
            weights: put(&gate.weights),
            columns: 0,
            row_mask: 0,
            rows: gate.weights.len() / gate.experts,
            experts: gate.experts,
            layout: gate.layout,
        });
        let gates = gates.collect();
        DeviceBatch { similarity: put(&data.similarity), scale: data.scale, samples: data.samples, gates }
    }

    fn problem(&mut self, gpu: &Gpu, loss: &Loss) -> Problem {
        let batch = self.batch(gpu, &loss.batch);
        let groups = match &loss.groups {
            Grouping::Separate(batches) => DeviceGroups::Separate(batches.iter().map(|data| self.batch(gpu, data)).collect()),
            Grouping::Ids(ids, count) => {
                self.ids.push(gpu.put(&ids.iter().map(|&id| id as i32).collect::<Vec<_>>()));
                DeviceGroups::Ids { ids: self.ids[0].pointer(), count: *count }
            }
        };
        Problem { batch, groups }
    }

    fn gradients(&mut self, gpu: &Gpu, batch: &DeviceBatch, dscale: &Buffer<f64>) -> DeviceGradients {
        let mut room = |len: usize| {
            self.floats.push(gpu.new_of(len));
            self.floats.last().unwrap().pointer()
        };
        let dweights = batch.gates.iter().map(|gate| room(gate.rows * gate.experts)).collect();
        let dsimilarity = room(batch.samples * batch.samples);
        DeviceGradients { dsimilarity, dscale: dscale.pointer(), dweights, groups: vec![] }
    }
}

/// Both presets, with groups of both kinds: 3 launches forward and 2 back, for all groups and gates together; and again from a graph.
#[test]
fn launches_are_few_and_can_be_captured() {
    for (seed, (config, ids)) in
        [(FolConfig::paper(), false), (FolConfig::paper(), true), (FolConfig::authors(), false), (FolConfig::authors(), true)]
            .into_iter()
            .enumerate()
    {
        let config = FolConfig { lambda_distance: 0.5, lambda_dispersion: 0.5, ..config };
        let gpu = Gpu::new(seed as u64);
        let mut loss = Loss { config: config.clone(), ..random(seed as u64, ids) };
        // Four gates, as the model has; three groups, as an attribute has.
        let more = |batch: &mut BatchData| batch.gates.extend(batch.gates.clone());
        more(&mut loss.batch);
        if let Grouping::Separate(groups) = &mut loss.groups {
            groups.push(BatchData::random(77, 5, 2));
            groups.iter_mut().for_each(more);
        }
        let loss = rounded(&loss);
        let mut held = Held { floats: vec![], ids: vec![] };
        let problem = held.problem(&gpu, &loss);
        let facts = gpu.driver.facts();
        let block: Buffer<u8> = gpu.new_of(Memory::new(facts, &config, &problem, 0).unwrap().bytes);
        let memory = Memory::new(facts, &config, &problem, block.pointer()).unwrap();
        let dscale: Buffer<f64> = gpu.new_of(1);
        let gradients = held.gradients(&gpu, &problem.batch, &dscale);
        // SAFETY: the counters are the block's first words; every buffer has the shape that its field names.
        unsafe { gpu.driver.fill(gpu.queue().stream, memory.counters, 0, 4 * moments::COUNTERS).unwrap() };
        let forward = || unsafe { fol::forward(&gpu.queue(), &config, &problem, &memory) };
        let backward = || unsafe { fol::backward(&gpu.queue(), &config, &problem, &memory, 1.5, &gradients) };
        let (_, want) = loss.backward::<f64>(1.5).unwrap();
        for _ in 0..2 {
            assert_eq!(gpu.launches(forward), ["moments_forward", "contrast_forward", "transport_forward"]);
            assert_eq!(gpu.launches(backward), ["moments_backward", "contrast_backward"]);
            let dsimilarity = &held.floats[held.floats.len() - 1];
            let got: Vec<f64> = dsimilarity.to_vec().unwrap().iter().map(|&d| d.into()).collect();
            assert_close("dsimilarity", &got, &want.dsimilarity, 1e-4);
            assert_close("dscale", &dscale.to_vec().unwrap(), &[want.dscale], 1e-4);
        }
    }
}

/// What route leaves of each sample's columns stands for the weights themselves.
#[test]
fn columns_of_samples_stand_for_the_weights() {
    let (samples, experts) = (6, 5);
    for ids in [false, true] {
        let config = FolConfig { lambda_batch_variance: 0.4, ..FolConfig::paper() };
        let mut loss = rounded(&Loss { config: config.clone(), ..random(4, ids) });
        loss.batch.gates.truncate(1);
        if let Grouping::Separate(groups) = &mut loss.groups {
            groups.iter_mut().for_each(|group| group.gates.truncate(1));
        }
        let gpu = Gpu::new(2);
        let mut held = Held { floats: vec![], ids: vec![] };
        let mut problem = held.problem(&gpu, &loss);
        let weights = &loss.batch.gates[0].weights;
        let mut columns = vec![];
        for b in 0..samples {
            let rows = (0..3).flat_map(|t| weights[(t * samples + b) * experts..][..experts].iter().copied());
            let (_, mean, variance) = reference::moments::forward(&rows.collect::<Vec<_>>(), experts, &[0; 3], 1).unwrap();
            columns.extend((0..experts).flat_map(|e| [3.0, mean[e] as f32, 2.0 * variance[e] as f32]));
        }
        let columns = gpu.put(&columns);
        problem.batch.gates[0].columns = columns.pointer();
        let facts = gpu.driver.facts();
        let block: Buffer<u8> = gpu.new_of(Memory::new(facts, &config, &problem, 0).unwrap().bytes);
        let memory = Memory::new(facts, &config, &problem, block.pointer()).unwrap();
        // SAFETY: the counters are the block's first words; every buffer has the shape that its field names.
        unsafe {
            gpu.driver.fill(gpu.queue().stream, memory.counters, 0, 4 * moments::COUNTERS).unwrap();
            fol::forward(&gpu.queue(), &config, &problem, &memory).unwrap();
        }
        let mut terms = [0u8; 48];
        // SAFETY: six f64.
        unsafe { gpu.driver.read(gpu.queue().stream, memory.terms, &mut terms).unwrap() };
        let terms: Vec<f64> = terms.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
        let want = loss.forward::<f64>().unwrap().terms;
        assert_close("terms", &terms[..5], &[want.total, want.clip, want.distance, want.dispersion, want.batch_variance], 2e-5);
        assert_close("dispersion", &terms[3..5], &[want.dispersion, want.batch_variance], 2e-5);
    }
}

#[test]
fn the_same_bits_in_any_order_of_threads() {
    let mut loss = Loss { config: FolConfig { group_gradient: true, ..FolConfig::authors() }, ..random(3, true) };
    loss.batch = BatchData::random(9, 70, 3);
    loss.groups = Grouping::Ids((0..70).map(|b| b % 4 - 1).collect(), 3);
    // Three multiprocessors: how many there are decides how many blocks share the groups out.
    let bits = |seed: u64| {
        let (state, gradients) = on(&Gpu::new(seed), &loss, 1.0).unwrap();
        (state.terms, all(&gradients).iter().map(|d| d.to_bits()).collect::<Vec<_>>())
    };
    assert_eq!(bits(1), bits(4));
}
