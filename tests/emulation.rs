//! The emulation itself: its instructions give what plain loops give, in whatever order threads run and copies land; and of a program
//! with one thing left out it says so.
#![cfg(feature = "emulate")]
#![allow(unsafe_code)]

mod support;

use fair_moe::DType;
use fair_moe::gpu::args::{Planted, PlantedProduct, TensorMap};
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::gpu::driver::{Arch, Driver, Shape, Tiled};
use fair_moe::gpu::session::Session;
use std::sync::Arc;

/// Nothing, or what was wrong.
type Outcome = Result<(), String>;
type Trial = Box<dyn Fn(&Arc<dyn Driver>) -> Outcome>;

/// How one program is run.
struct Program {
    name: &'static str,
    blocks: u32,
    shared: u32,
    cooperative: bool,
    count: usize,
    /// One after another, on the same counters.
    launches: usize,
}

const fn one_block(name: &'static str) -> Program {
    Program { name, blocks: 1, shared: 4096, cooperative: false, count: 128, launches: 1 }
}

const fn blocks(name: &'static str, cooperative: bool) -> Program {
    Program { name, blocks: 3, shared: 0, cooperative, count: 1000, launches: 2 }
}

const PROGRAMS: &[Program] = &[
    one_block("barrier"),
    one_block("reuse"),
    one_block("syncwarp"),
    one_block("ldmatrix_after_write"),
    one_block("stmatrix_before_read"),
    one_block("stmatrix_bounds"),
    one_block("cp_async_groups"),
    one_block("cp_async_alignment"),
    one_block("vector_alignment"),
    one_block("cp_async_tail"),
    one_block("half_barrier"),
    one_block("early_return"),
    one_block("barrier_count"),
    one_block("dynamic_bounds"),
    one_block("static_bounds"),
    one_block("ldmatrix_bounds"),
    one_block("read_bounds"),
    one_block("write_bounds"),
    one_block("uninitialised"),
    one_block("diverged"),
    one_block("own_mask"),
    blocks("tail", false),
    blocks("gather", false),
    blocks("last_block_reset", false),
    blocks("last_block_early", false),
    blocks("grid_wait", true),
    blocks("grid_reset", true),
    blocks("grid_absent", true),
];

const PIPELINES: &[&str] =
    &["proxy_fence", "empty_wait", "full_wait", "wgmma_wait", "early_release", "bytes", "extra_arrival", "init", "wgmma_fence"];

fn device(seed: u64, mode: u32, workers: u32) -> Arc<dyn Driver> {
    Arc::new(Emulated::new(Settings { mode, workers, ..Settings::new(seed, Arch::HOPPER) }))
}

/// 8 seeds in each of the 3 modes; fewer where fewer are asked for.
fn runs() -> impl Iterator<Item = (u64, u32)> {
    let count = if support::gpu::seeds() < 6 { support::gpu::seeds() } else { 8 };
    (0..count).flat_map(|seed| (0..3).map(move |mode| (seed, mode)))
}

fn run(driver: &Arc<dyn Driver>, name: &str, program: &Program) -> Outcome {
    let text = |why: fair_moe::Error| why.to_string();
    let (count, session) = (program.count, Session::new(driver).map_err(text)?);
    let source: Vec<i32> = (0..8192).collect();
    let index: Vec<i32> = (0..count as i32).map(|i| if i % 10 == 3 { -1 } else { i }).collect();
    let source = session.upload(&source).map_err(text)?;
    let index = session.upload(&index).map_err(text)?;
    let counters = session.upload(&[0u32; 2]).map_err(text)?;
    let shape = Shape::blocks(program.blocks).shared(program.shared);
    let shape = if program.cooperative { shape.cooperative() } else { shape };
    for _ in 0..program.launches {
        let out = session.empty::<i32>(count).map_err(text)?;
        let parts = session.empty::<i32>(program.blocks as usize).map_err(text)?;
        let args = Planted {
            source: source.pointer(),
            index: index.pointer(),
            out: out.pointer(),
            parts: parts.pointer(),
            counters: counters.pointer(),
            count: count as i32,
        };
        // SAFETY: what a right program reads and writes is there; what a faulty one does is what is tried.
        unsafe { session.queue().launch(name, shape, &args) }.map_err(text)?;
        let got = out.to_vec().map_err(text)?;
        if let Some(at) = (0..count).find(|&i| got[i] != i as i32) {
            return Err(format!("wrong result: {} at {at}", got[at]));
        }
        out.free().and(parts.free()).map_err(text)?;
    }
    Ok(())
}

/// Small whole numbers, of which products and sums are exact in every format.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as f32 % 17.0 - 8.0
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(values: impl Iterator<Item = f32>, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::Bf16 => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}

/// One product of matrices: [m, k] and [n, k], each stored by rows or (`trans`) by columns.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    trans: [bool; 2],
    dtype: DType,
    shared: u32,
}

impl Product {
    fn run(&self, driver: &Arc<dyn Driver>, name: &str) -> Outcome {
        let text = |why: fair_moe::Error| why.to_string();
        let Product { m, n, k, dtype, .. } = *self;
        let session = Session::new(driver).map_err(text)?;
        let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
        let stored = |values: &[f32], rows: usize, trans: bool| {
            let at = |i: usize| if trans { values[i % rows * k + i / rows] } else { values[i] };
            session.upload(&bytes((0..rows * k).map(at), dtype))
        };
        let a_stored = stored(&a, m, self.trans[0]).map_err(text)?;
        let b_stored = stored(&b, n, self.trans[1]).map_err(text)?;
        let map = |buffer: &Buffer<u8>, rows: usize, trans: bool| match dtype {
            DType::F32 => Ok(TensorMap::default()),
            _ if rows < 64 => Ok(TensorMap::default()),
            _ => {
                let dims = if trans { [rows as u64, k as u64] } else { [k as u64, rows as u64] };
                let strides = [dims[0] * 2];
                let base = buffer.pointer();
                driver.tensor_map(&Tiled { dtype, base, dims: &dims, strides: &strides, box_dims: &[64, 64], swizzle: true })
            }
        };
        let out = session.empty::<f32>(m * n).map_err(text)?;
        let args = PlantedProduct {
            a_map: map(&a_stored, m, self.trans[0]).map_err(text)?,
            b_map: map(&b_stored, n, self.trans[1]).map_err(text)?,
            a: a_stored.pointer(),
            b: b_stored.pointer(),
            out: out.pointer(),
        };
        let shape = Shape::blocks(1).shared(self.shared);
        // SAFETY: as above.
        unsafe { session.queue().launch(name, shape, &args) }.map_err(text)?;
        let got = out.to_vec().map_err(text)?;
        for (i, got) in got.into_iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let want: f32 = (0..k).map(|j| a[row * k + j] * b[column * k + j]).sum();
            if got != want {
                return Err(format!("wrong result: {got} at ({row}, {column}), not {want}"));
            }
        }
        Ok(())
    }
}

fn pipeline() -> Product {
    Product { m: 64, n: 64, k: 512, trans: [false; 2], dtype: DType::Bf16, shared: 2 * 16384 + 64 }
}

#[test]
fn right_programs_pass_in_every_order() {
    for (seed, mode) in runs() {
        let driver = device(seed, mode, 2);
        for program in PROGRAMS {
            let name = format!("right_{}", program.name);
            run(&driver, &name, program).unwrap_or_else(|why| panic!("seed {seed}, mode {mode}: {name}: {why}"));
        }
        for name in ["right_pipeline", "right_pipeline_arrive_by_copy"] {
            pipeline().run(&driver, name).unwrap_or_else(|why| panic!("seed {seed}, mode {mode}: {name}: {why}"));
        }
    }
}

#[test]
fn planted_faults_are_found() {
    let mut missed = vec![];
    let mut report = |name: String, try_one: Trial| {
        let found: Vec<_> =
            runs().filter_map(|(seed, mode)| Some((seed, mode, try_one(&device(seed, mode, 1)).err()?))).collect();
        let Some((seed, mode, why)) = found.first() else {
            missed.push(name);
            return;
        };
        println!("{name:32} found in {:2} of 24 runs; at seed {seed}, mode {mode}: {}", found.len(), why.replace('\n', ";"));
        for (.., why) in &found {
            let said = why.contains(&name) && why.contains(".cu:") && why.contains("thread");
            let by_result = why.starts_with("wrong result") || why.ends_with("a kernel wrote beside a buffer");
            let by_block = why.contains(&name) && why.contains("past the end of static shared memory");
            assert!(said || by_result || by_block, "{name} is not named with its thread and line: {why}");
        }
    };
    for program in PROGRAMS {
        let name = format!("fault_{}", program.name);
        report(name.clone(), Box::new(move |driver| run(driver, &name, program)));
    }
    for fault in PIPELINES {
        let name = format!("fault_pipeline_{fault}");
        report(name.clone(), Box::new(move |driver| pipeline().run(driver, &name)));
    }
    assert!(missed.is_empty(), "not found in any run: {missed:?}");
}

#[test]
fn matrix_instructions_multiply() {
    let small = |dtype| Product { m: 16, n: 16, k: 16, trans: [false, true], dtype, shared: 1024 };
    let wide = |trans, dtype| Product { m: 64, n: 128, k: 64, trans, dtype, shared: 24576 + 64 };
    for (seed, mode) in runs() {
        let driver = device(seed, mode, 1);
        let check = |name: &str, product: Product| {
            product.run(&driver, name).unwrap_or_else(|why| panic!("seed {seed}, mode {mode}: {name}: {why}"));
        };
        check("right_mma_bf16", small(DType::Bf16));
        check("right_mma_f16", small(DType::F16));
        check("right_mma_tf32", Product { m: 16, n: 8, k: 8, trans: [false, true], dtype: DType::F32, shared: 0 });
        check("right_wgmma_nn_bf16", wide([false, false], DType::Bf16));
        check("right_wgmma_nt_bf16", wide([false, true], DType::Bf16));
        check("right_wgmma_tn_bf16", wide([true, false], DType::Bf16));
        check("right_wgmma_tt_bf16", wide([true, true], DType::Bf16));
        check("right_wgmma_nn_f16", wide([false, false], DType::F16));
        check("right_wgmma_tt_f16", wide([true, true], DType::F16));
    }
}

#[test]
fn warp_functions_and_waits_between_blocks_work() {
    for (seed, mode) in runs() {
        let driver = device(seed, mode, 2);
        run(&driver, "right_warp", &one_block("warp")).unwrap();
        let settings = Settings { multiprocessors: 40, mode, workers: 2, ..Settings::new(seed, Arch::HOPPER) };
        let driver: Arc<dyn Driver> = Arc::new(Emulated::new(settings));
        let chain = Program { blocks: 40, shared: 0, cooperative: true, count: 100, launches: 1, name: "chain" };
        run(&driver, "right_chain", &chain).unwrap();
    }
}

#[test]
fn launches_that_a_gpu_refuses_are_refused() {
    let driver = device(0, 0, 1);
    let said = |program: Program| run(&driver, "right_grid_wait", &program).unwrap_err();
    let alone = Program { cooperative: false, ..blocks("grid_wait", true) };
    assert!(said(alone).contains("not cooperative"));
    assert!(said(Program { blocks: 4, ..blocks("grid_wait", true) }).contains("4 blocks have to run at the same time"));
    assert!(said(Program { shared: 228 << 10, ..blocks("grid_wait", true) }).contains("shared memory"));
    let old: Arc<dyn Driver> = Arc::new(Emulated::new(Settings::new(0, Arch(80))));
    assert!(pipeline().run(&old, "right_pipeline").unwrap_err().contains("sm_90a alone"));
}

#[test]
fn a_buffer_may_be_larger_than_the_machine() {
    let driver = device(0, 0, 1);
    let far = (1usize << 31) + 5;
    let session = Session::new(&driver).unwrap();
    let (large, stream) = (session.empty::<f32>(far + 1).unwrap(), session.queue().stream);
    let last = large.pointer() + 4 * far as u64;
    // SAFETY: the buffer's last element.
    unsafe {
        driver.write(stream, last, &1.5f32.to_le_bytes()).unwrap();
        let mut back = [0; 4];
        driver.read(stream, last, &mut back).unwrap();
        assert_eq!(f32::from_le_bytes(back), 1.5);
    }
    large.free().unwrap();
}

#[test]
fn many_small_blocks_run_fast() {
    let driver = device(0, 0, 1);
    let many = Program { blocks: 1000, shared: 0, cooperative: false, count: 1000, launches: 1, name: "tail" };
    let start = std::time::Instant::now();
    run(&driver, "right_tail", &many).unwrap();
    println!("1,000 blocks of 128 threads: {:?}", start.elapsed());
}

#[test]
fn tests_may_launch_side_by_side() {
    std::thread::scope(|scope| {
        for seed in 0..6 {
            scope.spawn(move || {
                let driver = device(seed, (seed % 3) as u32, 2);
                for _ in 0..20 {
                    run(&driver, "right_barrier", &one_block("barrier")).unwrap();
                    let why = run(&driver, "fault_half_barrier", &one_block("half_barrier")).unwrap_err();
                    assert!(why.contains("fault_half_barrier"), "{why}");
                }
            });
        }
    });
}
