//! `fair-moe bench`: how long each stage takes, the layer and the loss, and how far that is from what this machine can do.

use crate::output::{failed, say};
use fair_moe::bench::{
    Ceilings, DeviceLayer, DeviceLoss, LayerWork, LossWork, Measurement, Shape, StepWork, cpu_name, instruction_sets, measure,
    peak_memory,
};
use fair_moe::files::write_json;
use fair_moe::gpu::driver::Facts;
use fair_moe::{DType, Device, Element, Error, Result};
use half::{bf16, f16};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Where to compute: cpu, cuda[:N] or emulated[:SEED][@ARCH], which only counts; without it, the best there is for the dtype.
    #[arg(long)]
    device: Option<Device>,
    /// vit-b16-image, vit-b16-text, vit-l14-image or vit-l14-text, experts as full as can be; with -fresh behind it: gates as PyTorch
    /// initialises them; with -pruned: one row a sample needed; with -skewed: all rows to one expert. One or several.
    #[arg(long, default_value = "vit-b16-image", num_args = 1..)]
    shape: Vec<Shape>,
    /// Instead of layers: a whole training step of preset paper's ViT-B/16 on the CPU, with parameters in f32 that compute in the dtype.
    #[arg(long)]
    step: bool,
    /// With --step: experts run on every row, also on those that nothing reads afterwards.
    #[arg(long, requires = "step")]
    unpruned: bool,
    /// B.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    /// f64, f32, bf16 or f16. The loss is computed in f64 for f64, in f32 otherwise.
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What the JSON file holds. What is not known is null.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    results: Vec<Row>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    threads: usize,
    instruction_sets: Vec<&'static str>,
    gpu: Option<String>,
    arch: Option<String>,
    multiprocessors: Option<u32>,
    driver: Option<u32>,
    /// The ceilings. Of a CPU measured in this run: the fastest product of two 2048 x 2048 matrices in the dtype at hand, and the
    /// fastest copy.
    gemm_tflops: Option<f64>,
    copy_gbs: Option<f64>,
    version: &'static str,
    commit: &'static str,
}

#[derive(Serialize)]
struct Row {
    stage: &'static str,
    pass: &'static str,
    shape: String,
    samples: usize,
    pairs: usize,
    dtype: &'static str,
    device: String,
    launches: Option<usize>,
    median_ms: Option<f64>,
    min_ms: Option<f64>,
    max_ms: Option<f64>,
    flops: f64,
    bytes: f64,
    tflops: Option<f64>,
    gbs: Option<f64>,
    floor_ms: Option<f64>,
    floor_share: Option<f64>,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    match args.dtype {
        DType::F64 => run_in::<f64>(&args, out),
        DType::F32 => run_in::<f32>(&args, out),
        DType::F16 => run_in::<f16>(&args, out),
        DType::Bf16 => run_in::<bf16>(&args, out),
    }
}

fn run_in<T: Element>(args: &Args, out: &mut dyn Write) -> Result<()> {
    let best = || if T::DTYPE == DType::F64 { Device::cpu() } else { Device::best().0 };
    let device = args.device.clone().unwrap_or_else(best);
    let facts = device.driver().map(|driver| driver.facts());
    let ceilings = facts.map_or_else(|| Some(Ceilings::measure::<T>()), |facts| Ceilings::of_gpu(&facts.name, T::DTYPE));
    let machine = machine(facts, ceilings.as_ref());
    match &machine.gpu {
        Some(gpu) => say!(out, "{gpu}")?,
        None => say!(out, "{}, {} threads, {}", machine.cpu, machine.threads, machine.instruction_sets.join(" "))?,
    }
    if let Some(Ceilings { flops_per_second, bytes_per_second }) = ceilings {
        say!(out, "ceilings: {:.3} TFLOP/s in {}, copies {:.1} GB/s", flops_per_second / 1e12, T::DTYPE, bytes_per_second / 1e9)?;
    }
    let samples = args.samples as usize;
    let mut results = vec![];
    let mut show = |name: &str, pairs: usize, found: Vec<Measurement>, out: &mut dyn Write| -> Result<()> {
        let of_pairs = if pairs > 0 { format!(", {pairs} pairs") } else { String::new() };
        say!(out, "\n{name} with {samples} samples{of_pairs}, {} on {device}", T::DTYPE)?;
        say!(
            out,
            "stage      pass      launches     GFLOP        MB  median ms      min      max   TFLOP/s     GB/s  floor ms  of floor"
        )?;
        for found in found {
            let row = row(&found, ceilings.as_ref(), name, samples, pairs, T::DTYPE, &device);
            print(&row, out)?;
            results.push(row);
        }
        Ok(())
    };
    if args.step {
        if device.driver().is_some() {
            return Err(Error::Refused(format!("a training step is measured on the CPU, not on {device}: add --device cpu")));
        }
        let mut step = StepWork::new(samples, T::DTYPE, !args.unpruned)?;
        let name = if args.unpruned { "vit-b16-step-unpruned" } else { "vit-b16-step" };
        show(name, 0, measure(&mut step, Duration::from_secs(1))?, out)?;
        let memory = peak_memory().map_or("unknown".into(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        say!(out, "{} parameters that are trained, peak memory {memory}", step.parameters())?;
    } else {
        for shape in &args.shape {
            let (pairs, found) = measured::<T>(shape, samples, &device)?;
            show(&shape.name, pairs, found, out)?;
        }
    }
    let Some(path) = &args.json else { return Ok(()) };
    write_json(path, &Report { machine, results })
}

/// P, and what was found of every part.
fn measured<T: Element>(shape: &Shape, samples: usize, device: &Device) -> Result<(usize, Vec<Measurement>)> {
    let budget = Duration::from_secs(1);
    if device.driver().is_some() {
        let layer = DeviceLayer::<T>::new(shape, samples, device)?;
        let (pairs, mut found) = (layer.pairs(), layer.measure(budget)?);
        drop(layer);
        found.extend(DeviceLoss::new(shape, samples, device)?.measure(budget)?);
        return Ok((pairs, found));
    }
    let mut layer = LayerWork::<T>::new(shape, samples)?;
    let mut loss = LossWork::<T::Wide>::new(shape, samples)?;
    let mut found = measure(&mut layer, budget)?;
    found.extend(measure(&mut loss, budget)?);
    Ok((layer.pairs(), found))
}

fn machine(facts: Option<&Facts>, ceilings: Option<&Ceilings>) -> Machine {
    Machine {
        cpu: cpu_name(),
        threads: rayon::current_num_threads(),
        instruction_sets: instruction_sets(),
        gpu: facts.map(|facts| facts.name.clone()),
        arch: facts.map(|facts| facts.arch.to_string()),
        multiprocessors: facts.map(|facts| facts.multiprocessors),
        driver: facts.map(|facts| facts.driver),
        gemm_tflops: ceilings.map(|c| c.flops_per_second / 1e12),
        copy_gbs: ceilings.map(|c| c.bytes_per_second / 1e9),
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("FAIR_MOE_COMMIT"),
    }
}

fn row(
    m: &Measurement,
    ceilings: Option<&Ceilings>,
    shape: &str,
    samples: usize,
    pairs: usize,
    dtype: DType,
    device: &Device,
) -> Row {
    let seconds = m.times.map(|times| times.median.as_secs_f64());
    let floor = ceilings.map(|ceilings| m.floor(ceilings).as_secs_f64());
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Row {
        stage: m.part.0.name(),
        pass: m.part.1.name(),
        shape: shape.to_owned(),
        samples,
        pairs,
        dtype: dtype.name(),
        device: device.to_string(),
        launches: m.launches,
        median_ms: m.times.map(|times| ms(times.median)),
        min_ms: m.times.map(|times| ms(times.min)),
        max_ms: m.times.map(|times| ms(times.max)),
        flops: m.cost.flops,
        bytes: m.cost.bytes,
        tflops: seconds.map(|seconds| m.cost.flops / seconds / 1e12),
        gbs: seconds.map(|seconds| m.cost.bytes / seconds / 1e9),
        floor_ms: floor.map(|floor| floor * 1e3),
        floor_share: floor.zip(seconds).map(|(floor, seconds)| floor / seconds),
    }
}

fn print(r: &Row, out: &mut dyn Write) -> Result<()> {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let launches = r.launches.map_or("-".into(), |launches| launches.to_string());
    write!(out, "{:<10} {:<9} {launches:>8} {:>9.3} {:>9.3}", r.stage, r.pass, r.flops / 1e9, r.bytes / 1e6).map_err(failed)?;
    write!(out, " {:>10} {:>8} {:>8}", number(r.median_ms, 3), number(r.min_ms, 3), number(r.max_ms, 3)).map_err(failed)?;
    let share = r.floor_share.map_or("-".into(), |share| format!("{:.1}%", 100.0 * share));
    say!(out, " {:>9} {:>8} {:>9} {share:>9}", number(r.tflops, 3), number(r.gbs, 1), number(r.floor_ms, 3))
}
