//! `fair-moe bench`: how long each stage takes, the layer and the loss, and how far that is from what this machine can do.

use crate::device::Device;
use crate::output::{failed, say};
use fair_moe::bench::{Ceilings, LayerWork, LossWork, Measurement, Shape, cpu_name, instruction_sets, measure};
use fair_moe::files::write_atomically;
use fair_moe::{DType, Element, Error, Result};
use half::{bf16, f16};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Where to compute: cpu.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// vit-b16-image, vit-b16-text, vit-l14-image or vit-l14-text, experts as full as can be; with -fresh behind it: gates as PyTorch
    /// initialises them; with -pruned: one row a sample needed. One or several.
    #[arg(long, default_value = "vit-b16-image", num_args = 1..)]
    shape: Vec<Shape>,
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

/// What the JSON file holds.
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
    /// Measured in this run: the fastest product of two 2048 x 2048 matrices in the dtype at hand, and the fastest copy.
    gemm_tflops: f64,
    copy_gbs: f64,
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
    device: &'static str,
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    flops: f64,
    bytes: f64,
    tflops: f64,
    gbs: f64,
    floor_ms: f64,
    floor_share: f64,
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
    let ceilings = Ceilings::measure::<T>();
    let machine = Machine {
        cpu: cpu_name(),
        threads: rayon::current_num_threads(),
        instruction_sets: instruction_sets(),
        gemm_tflops: ceilings.flops_per_second / 1e12,
        copy_gbs: ceilings.bytes_per_second / 1e9,
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("FAIR_MOE_COMMIT"),
    };
    say!(out, "{}, {} threads, {}", machine.cpu, machine.threads, machine.instruction_sets.join(" "))?;
    say!(out, "ceilings measured now: {:.3} TFLOP/s in {}, copies {:.1} GB/s", machine.gemm_tflops, T::DTYPE, machine.copy_gbs)?;
    let mut results = vec![];
    for shape in &args.shape {
        let samples = args.samples as usize;
        let mut layer = LayerWork::<T>::new(shape, samples)?;
        let pairs = layer.pairs();
        say!(out, "\n{} with {samples} samples, {pairs} pairs, {} on {}", shape.name, T::DTYPE, args.device.name())?;
        say!(out, "stage      pass      median ms      min      max   TFLOP/s     GB/s  floor ms  of floor")?;
        let budget = Duration::from_secs(1);
        let mut loss = LossWork::<T::Wide>::new(shape, samples)?;
        for found in measure(&mut layer, budget)?.into_iter().chain(measure(&mut loss, budget)?) {
            let row = row(&found, &ceilings, shape, samples, pairs, T::DTYPE, args.device);
            print(&row, out)?;
            results.push(row);
        }
    }
    let Some(path) = &args.json else { return Ok(()) };
    let report = Report { machine, results };
    let text = serde_json::to_string_pretty(&report).map_err(|why| Error::file(path, why))?;
    write_atomically(path, |file| writeln!(file, "{text}"))
}

fn row(m: &Measurement, ceilings: &Ceilings, shape: &Shape, samples: usize, pairs: usize, dtype: DType, device: Device) -> Row {
    let (seconds, floor) = (m.median.as_secs_f64(), m.floor(ceilings).as_secs_f64());
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Row {
        stage: m.part.0.name(),
        pass: m.part.1.name(),
        shape: shape.name.clone(),
        samples,
        pairs,
        dtype: dtype.name(),
        device: device.name(),
        median_ms: ms(m.median),
        min_ms: ms(m.min),
        max_ms: ms(m.max),
        flops: m.cost.flops,
        bytes: m.cost.bytes,
        tflops: m.cost.flops / seconds / 1e12,
        gbs: m.cost.bytes / seconds / 1e9,
        floor_ms: floor * 1e3,
        floor_share: floor / seconds,
    }
}

fn print(r: &Row, out: &mut dyn Write) -> Result<()> {
    write!(out, "{:<10} {:<9} {:>9.3} {:>8.3} {:>8.3}", r.stage, r.pass, r.median_ms, r.min_ms, r.max_ms).map_err(failed)?;
    say!(out, " {:>9.3} {:>8.1} {:>9.3} {:>8.1}%", r.tflops, r.gbs, r.floor_ms, 100.0 * r.floor_share)
}
