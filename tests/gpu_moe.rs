//! The whole layer on an emulated device against the reference: every axis, launches, graphs, states that change devices, and errors.
#![cfg(feature = "emulate")]

mod support;

use fair_moe::check::full_size;
use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::gpu::driver::{Arch, Driver};
use fair_moe::gpu::moe::*;
use fair_moe::gpu::plan::{Engine, Plan, Product};
use fair_moe::*;
use half::{bf16, f16};
use std::sync::Arc;
use support::gpu::{Gpu, seeds, some_of};
use support::layer::{Layer, check_against, every_axis};
use support::{assert_close, relative_l2};

/// Whichever seed, mode and number of multiprocessors belong to the turn.
fn device(turn: u64) -> Device {
    Device::of(format!("turn {turn}"), Gpu::new(turn).driver)
}

fn is_large(layer: &Layer) -> bool {
    layer.tokens * layer.samples > 100
}

#[test]
fn every_axis_agrees_with_the_reference() {
    for (turn, (what, layer)) in some_of(7, (0..).zip(every_axis())) {
        let (device, want) = (device(turn), layer.reference().unwrap());
        check_against(&format!("{what} f32 on {device}"), &layer.run_on::<f32, f32>(&device).unwrap(), &want, 2e-5, 2e-5);
        check_against(&format!("{what} bf16 on {device}"), &layer.run_on::<bf16, bf16>(&device).unwrap(), &want, 7e-3, 2e-5);
        check_against(&format!("{what} f16 on {device}"), &layer.run_on::<f16, f16>(&device).unwrap(), &want, 1.5e-3, 2e-5);
    }
}

#[test]
fn gradients_of_half_precision_parameters_can_be_f32() {
    let small = (3..).zip(every_axis()).filter(|(_, (_, layer))| !is_large(layer));
    for (turn, (what, layer)) in some_of(3, small.step_by(4)) {
        let got = layer.run_on::<bf16, f32>(&device(turn)).unwrap();
        check_against(what, &got, &layer.reference().unwrap(), 7e-3, 2e-5);
    }
}

/// So that a decision of the kernels' can be held against the reference's: what a row or an expert chooses between is further apart than
/// its rounding, or is a tie exactly, as that of rows whose hidden layer is all 0.
#[test]
fn the_cases_leave_no_doubt_about_routing() {
    let apart = |mut scores: Vec<f64>, taken: usize| {
        scores.sort_by(|a, b| b.total_cmp(a));
        let gap = || scores[taken - 1] - scores[taken];
        taken >= scores.len() || gap() == 0.0 || gap() > 1e-5 * scores[taken - 1].abs()
    };
    for (what, layer) in every_axis().into_iter().chain(full_size()) {
        let (config, routing) = (&layer.config, layer.run::<f64, f64>().unwrap().routing);
        let (e, k, rows) = (config.experts.count, config.top_k, layer.tokens * layer.samples);
        assert!((0..rows).all(|row| apart(routing.logits[row * e..][..e].to_vec(), k)), "{what}: top-k");
        let Some(capacity) = config.capacity_of(layer.tokens, layer.samples).unwrap() else { continue };
        let (token_stride, sample_stride) = layer.layout.strides(layer.tokens, layer.samples);
        let sample_of = |row: usize| if token_stride == 1 { row / sample_stride } else { row % token_stride };
        for scope in 0..if config.capacity_scope == CapacityScope::Batch { 1 } else { layer.samples } {
            for expert in 0..e as u32 {
                let candidates = (0..rows).filter(|&row| {
                    let routed = layer.row_mask.as_ref().is_none_or(|mask| mask[row]);
                    let within = config.capacity_scope == CapacityScope::Batch || sample_of(row) == scope;
                    routed && within && routing.chosen[row * k..][..k].contains(&expert)
                });
                let weight = |row: usize| {
                    let p = |e: u32| routing.probabilities[row * e_count(config) + e as usize];
                    let sum: f64 = routing.chosen[row * k..][..k].iter().map(|&e| p(e)).sum();
                    if config.renormalise { p(expert) / sum } else { p(expert) }
                };
                let weights: Vec<f64> = candidates.map(weight).collect();
                assert!(apart(weights, capacity), "{what}: expert {expert}");
            }
        }
    }
}

fn e_count(config: &MoeConfig) -> usize {
    config.experts.count
}

/// Two experts that differ by less than f32 can tell: then the reference chooses otherwise, and routing is right by its own gate alone.
#[test]
fn routing_follows_the_kernels_own_gate_where_there_is_doubt() {
    let mut config = MoeConfig::token_paper(12);
    (config.experts.count, config.top_k, config.capacity) = (2, 1, Capacity::Fixed(3));
    let mut layer = Layer::random(config, 7, 3, Layout::TokensFirst, 4);
    let weights = &mut layer.parameters[Param::GateFc2Weight];
    let half = weights.len() / 2;
    weights.copy_within(..half, half);
    let biases = &mut layer.parameters[Param::GateFc2Bias];
    biases[1] = biases[0] + 1e-12;
    let want = layer.reference().unwrap().routing;
    assert!(want.chosen.iter().all(|&e| e == 1));
    for device in [Device::cpu(), device(0), device(1), device(2)] {
        let got = layer.run_on::<f32, f32>(&device).unwrap().routing;
        assert!(got.chosen.iter().all(|&e| e == 0), "on {device}");
        let own = layer.decisions_by(&got).unwrap();
        assert_eq!((&got.chosen, &got.row_pairs, &got.pair_row), (&own.chosen, &own.row_pairs, &own.pair_row), "on {device}");
        assert_eq!((&got.expert_offsets, &got.weights), (&own.expert_offsets, &own.weights), "on {device}");
    }
}

#[test]
fn decisions_hold_by_the_reference_and_by_their_own_gate() {
    let cpu = Device::cpu();
    let mut all = vec![];
    check::check_layer::<bf16>(&device(4), &mut all).unwrap();
    check::check_layer::<f64>(&cpu, &mut all).unwrap();
    check::check_layer::<f32>(&cpu, &mut all).unwrap();
    for finding in all {
        assert!(finding.holds(), "{finding:?}");
    }
}

#[test]
fn presets_launch_five_and_eight_kernels() {
    for config in [
        MoeConfig::token_paper(16),
        MoeConfig::token_authors(16),
        MoeConfig::feature_paper(16, 3),
        MoeConfig::feature_authors(16, 3),
    ] {
        let layer = Layer::random(config, 5, 2, Layout::TokensFirst, 1);
        let (forward, backward) = launches(&layer);
        assert!(forward.len() <= 5 && backward.len() <= 8, "{forward:?}, {backward:?}");
        let stems = |names: &[&'static str]| names.iter().map(|n| n.split('_').next().unwrap()).collect::<Vec<_>>();
        assert_eq!(stems(&forward), ["gate", "route", "experts", "experts", "combine"]);
        assert_eq!(stems(&backward), ["experts", "experts", "experts", "experts", "route", "gate", "gate", "combine"]);
    }
}

#[test]
fn any_other_axis_adds_one_launch_at_most() {
    for (what, layer) in every_axis() {
        let (forward, backward) = launches(&layer);
        assert!(forward.len() <= 6 && backward.len() <= 9, "{what}: {forward:?}, {backward:?}");
    }
}

/// Layers of few rows an expert get tiles of few rows; these do not.
#[test]
fn a_layer_of_many_rows_multiplies_by_wgmma_on_hopper() {
    let (tokens, samples) = (53, 12);
    // About 190 pairs an expert. The first is multiplied in tiles of 192 by 192, and the last three products in one launch.
    for (seed, gated, shared_expert, [width, expert_width]) in
        [(0, false, false, [192, 384]), (1, true, true, [264, 328]), (2, false, true, [264, 328])]
    {
        let mut config = MoeConfig { shared_expert, ..MoeConfig::token_authors(width) };
        (config.experts.width, config.experts.gated) = (expert_width, gated);
        let layer = Layer::random(config, tokens, samples, Layout::TokensFirst, seed);
        let settings = Settings { multiprocessors: 2 + seed as u32, ..Settings::new(seed, Arch::HOPPER) };
        let driver: Arc<dyn Driver> = Arc::new(Emulated::new(settings));
        let sizes = Sizes::new(&layer.config, tokens, samples, tokens * samples).unwrap();
        let plan = Plan::new(driver.facts(), &layer.config, DType::Bf16, &sizes);
        let by_wgmma = Product::ALL.into_iter().filter(|&product| plan.tile(product).engine == Engine::Wgmma);
        assert!(by_wgmma.count() >= if gated { 5 } else { 6 }, "{plan:?}");
        assert!(seed > 0 || (plan.rows == 192 && plan.merges()), "{plan:?}");
        let (device, want) = (Device::of("Hopper", driver), layer.reference().unwrap());
        check_against("bf16", &layer.run_on::<bf16, f32>(&device).unwrap(), &want, 7e-3, 2e-5);
        check_against("f16", &layer.run_on::<f16, f16>(&device).unwrap(), &want, 1.5e-3, 2e-5);
    }
}

/// Tensor maps and whole accesses want addresses that are multiples of 16; a caller's may begin anywhere that its elements may.
#[test]
fn a_state_that_no_tensor_map_can_be_of_is_read_without() {
    begins_behind(8, 0);
}

#[test]
fn gradients_anywhere_are_written() {
    begins_behind(0, 1);
}

/// A layer for wgmma whose state begins so many bytes, and whose gradients so many elements, behind a multiple of 16 bytes.
fn begins_behind(of_state: usize, of_gradients: usize) {
    let (tokens, samples, rows) = (60, 12, 720);
    let mut config = MoeConfig::token_authors(256);
    config.experts.width = 128;
    let layer = Layer::random(config, tokens, samples, Layout::TokensFirst, 5);
    let layer = Layer { dweights: None, dprobabilities: None, dlogits: None, ..layer };
    let gpu = Gpu::new(3);
    let narrow = |values: &[f64]| values.iter().map(|&v| bf16::from_f64(v)).collect::<Vec<_>>();
    let (x, dy) = (narrow(&layer.x), narrow(&layer.dy));
    let parameters = Parameters::from_fn(|p| narrow(&layer.parameters[p]));
    let resident = Resident::new(&gpu.driver, &layer.config, &parameters.as_slices(), &layer.input(&x)).unwrap();
    let plan = resident.plan().unwrap();
    assert!(Product::ALL.into_iter().all(|product| plan.tile(product).engine == Engine::Wgmma), "{plan:?}");

    let (facts, config, dtype) = (gpu.driver.facts(), &layer.config, DType::Bf16);
    let layout = state_layout(config, dtype, tokens, samples, rows, true).unwrap();
    let buffers = State::try_from_fn(|part| Ok(gpu.new_of::<u8>(layout[part] + of_state))).unwrap();
    let place = |part: StatePart| if layout[part] > 0 { buffers[part].pointer() + of_state as u64 } else { 0 };
    let state = State::try_from_fn(|part| Ok(place(part))).unwrap();
    let bytes = forward_workspace_bytes(facts, config, dtype, tokens, samples, rows).unwrap();
    let bytes = bytes.max(backward_workspace_bytes(facts, config, dtype, tokens, samples, rows).unwrap());
    let (space, upstream) = (gpu.new_of::<u8>(bytes), gpu.put(&dy));
    let (y, dx) = (gpu.new_of::<bf16>(x.len()), gpu.new_of::<bf16>(x.len()));
    let workspace = Workspace { at: space.pointer(), bytes };
    let forward =
        MoeForwardArgs { input: resident.input(), y: y.pointer(), y_stride: 256, state, counted: 0, columns: 0, workspace };
    let gradients = Parameters::from_fn(|p| gpu.new_of::<f32>(p.len(config) + of_gradients));
    let backward = MoeBackwardArgs {
        input: resident.input(),
        state,
        dy: upstream.pointer(),
        dy_stride: 256,
        dweights: 0,
        dprobabilities: 0,
        dlogits: 0,
        dx: dx.pointer(),
        dx_stride: 256,
        gradients: Parameters::from_fn(|p| gradients[p].pointer() + 4 * of_gradients as u64),
        gradient_dtype: DType::F32,
        mode: GradientMode::Overwrite,
        workspace,
    };
    // SAFETY: the buffers are as long as the layer needs.
    #[allow(unsafe_code)]
    unsafe {
        moe_forward(&gpu.queue(), config, &forward).unwrap();
        moe_backward(&gpu.queue(), config, &backward).unwrap();
    }
    let want = layer.reference().unwrap();
    let wide = |values: Vec<bf16>| values.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    assert_close("y", &wide(y.to_vec().unwrap()), &want.y, 7e-3);
    assert_close("dx", &wide(dx.to_vec().unwrap()), &want.dx, 7e-3);
    for p in Param::ALL.into_iter().filter(|p| p.name().starts_with("experts") && p.len(config) > 0) {
        let got: Vec<f64> = gradients[p].to_vec().unwrap()[of_gradients..].iter().map(|&g| f64::from(g)).collect();
        assert_close(p.name(), &got, &want.gradients[p], 7e-3);
    }
}

/// The kernels of both passes, which are not run.
fn launches(layer: &Layer) -> (Vec<&'static str>, Vec<&'static str>) {
    let gpu = Gpu::new(0);
    let (x, dy) = (to_f32(&layer.x), to_f32(&layer.dy));
    let parameters = Parameters::from_fn(|p| to_f32(&layer.parameters[p]));
    let resident = Resident::new(&gpu.driver, &layer.config, &parameters.as_slices(), &layer.input(&x)).unwrap();
    let state = resident.new_state(true).unwrap();
    let forward = resident.forward(&state).unwrap();
    let backward = resident.backward::<f32>(&state, &Upstream::new(&dy), None).unwrap();
    let queue = resident.queue();
    // SAFETY: the stream is the resident's.
    #[allow(unsafe_code)]
    let names = |launch: &dyn Fn() -> Result<()>| unsafe {
        queue.driver.begin_capture(queue.stream).unwrap();
        launch().unwrap();
        let graph = queue.driver.end_capture(queue.stream).unwrap();
        let names = queue.driver.graph_kernels(&graph);
        queue.driver.end_graph(graph);
        names
    };
    // SAFETY: nothing runs.
    #[allow(unsafe_code)]
    unsafe {
        (names(&|| forward.launches.launch(&queue)), names(&|| backward.launches.launch(&queue)))
    }
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// The emulation refuses to allocate, copy or wait while it captures, so a pass that can be captured does none of it.
#[test]
fn both_passes_are_captured_in_one_graph_and_replayed() {
    for (turn, (what, layer)) in some_of(9, (0..).zip(every_axis()).filter(|(_, (_, layer))| !is_large(layer))) {
        let want = layer.run_on::<f32, f32>(&device(turn)).unwrap();
        let driver = Gpu::new(turn).driver;
        let (x, dy) = (to_f32(&layer.x), to_f32(&layer.dy));
        let parameters = Parameters::from_fn(|p| to_f32(&layer.parameters[p]));
        let resident = Resident::new(&driver, &layer.config, &parameters.as_slices(), &layer.input(&x)).unwrap();
        let state = resident.new_state(true).unwrap();
        let forward = resident.forward(&state).unwrap();
        let optional = |values: &Option<Vec<f64>>| values.as_ref().map(|v| to_f32(v));
        let (dweights, dprobabilities, dlogits) =
            (optional(&layer.dweights), optional(&layer.dprobabilities), optional(&layer.dlogits));
        let upstream = Upstream {
            dweights: dweights.as_deref(),
            dprobabilities: dprobabilities.as_deref(),
            dlogits: dlogits.as_deref(),
            ..Upstream::new(&dy)
        };
        let backward = resident.backward::<f32>(&state, &upstream, None).unwrap();
        let queue = resident.queue();
        // SAFETY: the buffers of a `Resident` and its passes, which outlive the graph.
        #[allow(unsafe_code)]
        let graph = unsafe {
            driver.begin_capture(queue.stream).unwrap();
            forward.launches.launch(&queue).unwrap();
            backward.launches.launch(&queue).unwrap();
            driver.end_capture(queue.stream).unwrap()
        };
        // Twice: nothing that a pass leaves behind is in the way of the next.
        for _ in 0..2 {
            // SAFETY: likewise.
            #[allow(unsafe_code)]
            unsafe {
                driver.replay(queue.stream, &graph).unwrap();
            }
            let same = |got: Vec<f32>, want: &[f64]| got.iter().map(|&v| f64::from(v)).eq(want.iter().copied());
            assert!(same(forward.y.to_vec().unwrap(), &want.y), "{what}: y");
            assert!(same(backward.dx.to_vec().unwrap(), &want.dx), "{what}: dx");
            for p in Param::ALL {
                assert!(same(backward.gradients[p].to_vec().unwrap(), &want.gradients[p]), "{what}: {}", p.name());
            }
        }
        driver.end_graph(graph);
    }
}

/// Backward on another device than forward, and the other way round.
#[test]
fn a_state_is_good_on_every_device() {
    for (turn, (what, layer)) in some_of(9, (0..).zip(every_axis()).filter(|(_, (_, layer))| !is_large(layer))) {
        let want = layer.reference().unwrap();
        let (cpu, gpu) = (Device::cpu(), device(turn));
        for (first, second) in [(&cpu, &gpu), (&gpu, &cpu)] {
            let got = across(&layer, first, second);
            check_against(&format!("{what}: {first}, then {second}"), &got, &want, 2e-5, 2e-5);
        }
    }
}

fn across(layer: &Layer, first: &Device, second: &Device) -> support::layer::Results {
    let (x, dy) = (to_f32(&layer.x), to_f32(&layer.dy));
    let parameters = Parameters::from_fn(|p| to_f32(&layer.parameters[p]));
    let (parameters, input) = (parameters.as_slices(), layer.input(&x));
    let optional = |values: &Option<Vec<f64>>| values.as_ref().map(|v| to_f32(v));
    let (dweights, dprobabilities, dlogits) =
        (optional(&layer.dweights), optional(&layer.dprobabilities), optional(&layer.dlogits));
    let upstream = Upstream {
        dy: &dy,
        dweights: dweights.as_deref(),
        dprobabilities: dprobabilities.as_deref(),
        dlogits: dlogits.as_deref(),
    };
    let on = |device: &Device| Moe::on(layer.config.clone(), device.clone()).unwrap();
    let (mut state, mut y, mut dx) = (MoeState::default(), vec![0.0; x.len()], vec![0.0; x.len()]);
    on(first).forward(&parameters, &input, &mut y, &mut state).unwrap();
    let mut gradients = Parameters::<Vec<f32>>::zeros(&layer.config).unwrap();
    let mode = GradientMode::Overwrite;
    on(second).backward(&parameters, &input, &state, &upstream, &mut dx, &mut gradients.as_mut_slices(), mode).unwrap();
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let routing = layer.run::<f32, f32>().unwrap().routing;
    support::layer::Results { y: wide(&y), routing, dx: wide(&dx), gradients: Parameters::from_fn(|p| wide(&gradients[p])) }
}

#[test]
fn gradients_accumulate_and_inference_gives_the_same_output() {
    let mut config = MoeConfig::token_paper(16);
    config.shared_expert = true;
    let layer = Layer::random(config, 9, 2, Layout::TokensFirst, 3);
    let moe = Moe::on(layer.config.clone(), device(1)).unwrap();
    let narrow = |v: &[f64]| v.iter().map(|&v| bf16::from_f64(v)).collect::<Vec<_>>();
    let (x, dy) = (narrow(&layer.x), narrow(&layer.dy));
    let parameters = Parameters::from_fn(|p| narrow(&layer.parameters[p]));
    let (parameters, input) = (parameters.as_slices(), layer.input(&x));
    let (mut state, mut y, mut dx) = (MoeState::default(), vec![bf16::ZERO; x.len()], vec![bf16::ZERO; x.len()]);
    moe.forward(&parameters, &input, &mut y, &mut state).unwrap();
    let (mut again, mut routing) = (vec![bf16::ZERO; y.len()], Routing::default());
    moe.infer(&parameters, &input, &mut again, &mut routing).unwrap();
    assert_eq!(y, again);
    assert_eq!(&routing, state.routing());

    let mut gradients = Parameters::<Vec<f32>>::zeros(&layer.config).unwrap();
    for mode in [GradientMode::Overwrite, GradientMode::Accumulate, GradientMode::Accumulate] {
        let upstream = Upstream::new(&dy);
        moe.backward(&parameters, &input, &state, &upstream, &mut dx, &mut gradients.as_mut_slices(), mode).unwrap();
    }
    let once = Layer { dweights: None, dprobabilities: None, dlogits: None, ..layer.clone() }.reference().unwrap();
    for p in Param::ALL {
        let thrice: Vec<f64> = once.gradients[p].iter().map(|g| 3.0 * g).collect();
        let got: Vec<f64> = gradients[p].iter().map(|&g| f64::from(g)).collect();
        assert_close(p.name(), &got, &thrice, 7e-3);
    }
}

/// One device model gives one result, in whichever order its threads run and its copies land.
#[test]
fn bits_do_not_depend_on_the_order_of_threads() {
    let same_model = |seed: u64| {
        let settings = Settings { multiprocessors: 3, ..Settings::new(seed, Arch(80)) };
        Device::of(format!("seed {seed}"), std::sync::Arc::new(Emulated::new(settings)))
    };
    let small = every_axis().into_iter().filter(|(_, layer)| !is_large(layer)).step_by(3);
    for (what, layer) in some_of(6, small) {
        let first = (layer.run_on::<f32, f32>(&same_model(0)).unwrap(), layer.run_on::<bf16, bf16>(&same_model(0)).unwrap());
        for seed in [1, 2, 5, 9].into_iter().take(seeds() as usize) {
            let device = same_model(seed);
            let again = (layer.run_on::<f32, f32>(&device).unwrap(), layer.run_on::<bf16, bf16>(&device).unwrap());
            assert!(first == again, "{what}: bits differ with seed {seed}");
        }
    }
}

/// Rows that lie further apart than they are wide, in x, y, dy and dx.
#[test]
fn rows_may_be_apart() {
    let mut config = MoeConfig::token_authors(24);
    (config.experts.width, config.capacity) = (40, Capacity::Fixed(2));
    let layer = Layer::random(config, 7, 3, Layout::SamplesFirst, 4);
    let plain = Layer { dweights: None, dprobabilities: None, dlogits: None, ..layer.clone() };
    let want = plain.reference().unwrap();
    for (turn, stride) in [(0, 24), (1, 27), (2, 32)] {
        let gpu = Gpu::new(turn);
        let spread = |values: &[f64]| -> Vec<f32> {
            let row = |row: &[f64]| [to_f32(row), vec![f32::NAN; stride - 24]].concat();
            values.chunks(24).flat_map(row).collect()
        };
        let gather = |values: Vec<f32>| -> Vec<f64> {
            values.chunks(stride).flat_map(|row| row[..24].iter().map(|&v| f64::from(v))).collect()
        };
        let x = to_f32(&layer.x);
        let parameters = Parameters::from_fn(|p| to_f32(&layer.parameters[p]));
        let resident = Resident::new(&gpu.driver, &layer.config, &parameters.as_slices(), &layer.input(&x)).unwrap();
        let state = resident.new_state(true).unwrap();
        let (wide_x, wide_dy) = (gpu.put(&spread(&layer.x)), gpu.put(&spread(&layer.dy)));
        let (y, dx) = (gpu.new_of::<f32>(21 * stride), gpu.new_of::<f32>(21 * stride));
        let (facts, config) = (gpu.driver.facts(), &layer.config);
        let input = DeviceInput { x: wide_x.pointer(), x_stride: stride, ..resident.input() };
        let bytes = forward_workspace_bytes(facts, config, DType::F32, 7, 3, 21).unwrap();
        let more = backward_workspace_bytes(facts, config, DType::F32, 7, 3, 21).unwrap();
        let space = gpu.new_of::<u8>(bytes.max(more));
        let columns = gpu.new_of::<f32>(3 * 10 * 3);
        let addresses = State::try_from_fn(|part| Ok(state[part].pointer())).unwrap();
        let forward = MoeForwardArgs {
            input: input.clone(),
            y: y.pointer(),
            y_stride: stride,
            state: addresses,
            counted: 0,
            columns: columns.pointer(),
            workspace: Workspace { at: space.pointer(), bytes },
        };
        let gradients = Parameters::from_fn(|p| gpu.new_of::<f32>(p.len(config)));
        let backward = MoeBackwardArgs {
            input,
            state: addresses,
            dy: wide_dy.pointer(),
            dy_stride: stride,
            dweights: 0,
            dprobabilities: 0,
            dlogits: 0,
            dx: dx.pointer(),
            dx_stride: stride,
            gradients: Parameters::from_fn(|p| gradients[p].pointer()),
            gradient_dtype: DType::F32,
            mode: GradientMode::Overwrite,
            workspace: Workspace { at: space.pointer(), bytes: more },
        };
        // SAFETY: the buffers are as long as the layer needs.
        #[allow(unsafe_code)]
        unsafe {
            moe_forward(&gpu.queue(), config, &forward).unwrap();
            moe_backward(&gpu.queue(), config, &backward).unwrap();
        }
        assert_close("y", &gather(y.to_vec().unwrap()), &want.y, 2e-5);
        assert_close("dx", &gather(dx.to_vec().unwrap()), &want.dx, 2e-5);
        for p in Param::ALL {
            let got: Vec<f64> = gradients[p].to_vec().unwrap().iter().map(|&g| f64::from(g)).collect();
            assert!(relative_l2(&got, &want.gradients[p]) <= 2e-5, "{}", p.name());
        }
        // Count, mean and M2 of every (sample, expert) column of the final weights.
        for (at, column) in columns.to_vec().unwrap().chunks(3).enumerate() {
            let (sample, expert) = (at / 10, at % 10);
            let weights: Vec<f64> = (0..7).map(|t| want.routing.weights[(sample * 7 + t) * 10 + expert]).collect();
            let mean = weights.iter().sum::<f64>() / 7.0;
            let m2: f64 = weights.iter().map(|w| (w - mean) * (w - mean)).sum();
            assert_eq!(column[0], 7.0);
            assert!((f64::from(column[1]) - mean).abs() < 1e-6 && (f64::from(column[2]) - m2).abs() < 1e-6, "{column:?}");
        }
    }
}

#[test]
fn bounds_hold_and_are_reached() {
    for (what, layer) in every_axis() {
        let needed = layer.rows_needed.as_ref().map_or(layer.tokens * layer.samples, Vec::len);
        let sizes = Sizes::new(&layer.config, layer.tokens, layer.samples, needed).unwrap();
        let pairs = layer.reference().unwrap().routing.pairs();
        assert!(pairs <= sizes.routed_pairs, "{what}: {pairs} of at most {sizes:?}");
        let shared = if layer.config.shared_expert { needed } else { 0 };
        assert_eq!(sizes.pairs, sizes.routed_pairs + shared, "{what}");
    }
    // Every row chooses every expert: all that capacity leaves is taken.
    let mut config = MoeConfig::token_paper(8);
    (config.experts.count, config.top_k, config.capacity) = (4, 4, Capacity::Fixed(3));
    let sizes = |config: &MoeConfig| Sizes::new(config, 10, 2, 20).unwrap().routed_pairs;
    assert_eq!(sizes(&config), 2 * 4 * 3);
    config.capacity_scope = CapacityScope::Batch;
    assert_eq!(sizes(&config), 4 * 3);
    config.capacity = Capacity::None;
    assert_eq!(sizes(&config), 20 * 4);
}

#[test]
fn what_a_device_cannot_do_is_an_error() {
    let layer = Layer::random(MoeConfig::token_paper(8), 5, 2, Layout::TokensFirst, 1);
    let refused = layer.run_on::<f64, f64>(&device(0)).unwrap_err().to_string();
    assert!(refused.contains("f64"), "{refused}");
    let refused = layer.run_on::<bf16, f64>(&device(0)).unwrap_err().to_string();
    assert!(refused.contains("the gradients' dtype"), "{refused}");

    let gpu = Gpu::new(0);
    let x = to_f32(&layer.x);
    let parameters = Parameters::from_fn(|p| to_f32(&layer.parameters[p]));
    let resident = Resident::new(&gpu.driver, &layer.config, &parameters.as_slices(), &layer.input(&x)).unwrap();
    let state = resident.new_state(true).unwrap();
    let facts = gpu.driver.facts();
    let bytes = forward_workspace_bytes(facts, &layer.config, DType::F32, 5, 2, 10).unwrap();
    let right = MoeForwardArgs {
        input: resident.input(),
        y: 16,
        y_stride: 8,
        state: State::try_from_fn(|part| Ok(state[part].pointer())).unwrap(),
        counted: 0,
        columns: 0,
        workspace: Workspace { at: 16, bytes },
    };
    let why = |change: &dyn Fn(&mut MoeForwardArgs)| {
        let mut args = right.clone();
        change(&mut args);
        Forward::new(facts, &layer.config, &args).unwrap_err().to_string()
    };
    assert!(Forward::new(facts, &layer.config, &right).is_ok());
    assert_eq!(
        why(&|a| a.workspace.bytes -= 1),
        format!("the workspace of the forward pass must be at least {bytes} bytes, but is {} bytes", bytes - 1)
    );
    assert_eq!(why(&|a| a.y = 0), "y has no address");
    assert!(why(&|a| a.y_stride = 7).contains("at least the width 8"));
    assert!(why(&|a| a.input.needed_rows = 9).contains("10 without a mask"));
    assert!(why(&|a| a.input.needed_rows = 11).contains("at most the 10 rows"));
    assert!(why(&|a| a.input.tokens = 0).contains("at least"));
    assert!(why(&|a| a.input.tokens = 1 << 31).contains("below 2^31"));
    assert!(why(&|a| a.input.dtype = DType::F64).contains("f64"));
    assert_eq!(why(&|a| a.input.parameters[Param::GateFc2Bias] = 0), "the parameter gate.fc2.bias has no address");
    assert_eq!(why(&|a| a.state = State::default()), "the state's hidden layer has no address");
}

#[test]
fn nothing_in_nothing_out() {
    let layer = Layer::random(MoeConfig::token_paper(8), 0, 4, Layout::TokensFirst, 1);
    let results = layer.run_on::<f32, f32>(&device(0)).unwrap();
    assert!(results.y.is_empty() && results.routing.pairs() == 0);
}

#[test]
fn a_devices_name_is_read_and_told() {
    let named = |name: &str| name.parse::<Device>().unwrap().to_string();
    assert_eq!(named("cpu"), "cpu");
    assert_eq!(named("emulated"), "emulated:0@sm_80");
    assert_eq!(named("emulated:7"), "emulated:7@sm_80");
    assert_eq!(named("emulated:7@sm_90"), "emulated:7@sm_90a");
    for wrong in ["", "gpu", "cpu:0", "cpu@sm_80", "cuda:x", "cuda:-1", "cuda@sm_80", "emulated:", "emulated:1@sm_12"] {
        assert!(wrong.parse::<Device>().is_err(), "{wrong:?}");
    }
}

/// As `fair-moe check` has it: every finding within its bound.
#[test]
fn the_loss_agrees_with_f64() {
    for turn in 0..seeds().min(3) {
        let mut findings = vec![];
        check::check_fol(&device(turn), &mut findings).unwrap();
        for finding in findings {
            assert!(finding.holds(), "{finding:?}");
        }
    }
}
