//! What `bench` found, as lines of a table and as JSON.

use super::known::Known;
use crate::output::{failed, say};
use fair_moe::bench::{Ceilings, Measurement, Predicted, Saved, cpu_name, instruction_sets};
use fair_moe::gpu::driver::Facts;
use fair_moe::{DType, Result};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// What the JSON file holds. What is not known is null.
#[derive(Serialize)]
pub struct Report<'a> {
    pub machine: Machine,
    pub results: &'a [Row],
    /// What each shape keeps of forward for backward, on a device.
    pub saved: &'a [SavedRow],
    /// What was asked for and could not be measured.
    pub failed: &'a [Failure],
}

#[derive(Serialize)]
pub struct Failure {
    /// A shape, or `ceilings`.
    pub what: String,
    pub why: String,
}

#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    threads: usize,
    instruction_sets: Vec<&'static str>,
    gpu: Option<String>,
    arch: Option<String>,
    multiprocessors: Option<u32>,
    driver: Option<u32>,
    /// The ceilings that floors are computed from. Of a CPU measured in this run: the fastest product of two 2048 x 2048 matrices in the
    /// dtype at hand, and the fastest copy. Of a GPU what others saw one like it reach, or, where nobody did, the two below.
    gemm_tflops: Option<f64>,
    copy_gbs: Option<f64>,
    /// What a dense product and a copy by the layer's own kernels reached in this run, on a GPU.
    reached_gemm_tflops: Option<f64>,
    reached_copy_gbs: Option<f64>,
    /// What a graph of one empty kernel takes there, between two events as every part's: no part can take less.
    empty_graph_ms: Option<f64>,
    version: &'static str,
    commit: &'static str,
}

#[derive(Serialize)]
pub struct Row {
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
    /// What the cost model that chooses tiles says of it, what takes the time, and the kernel that it chose.
    predicted_ms: Option<f64>,
    predicted_bound: Option<&'static str>,
    kernel: Option<String>,
}

#[derive(Serialize)]
pub struct SavedRow {
    pub shape: String,
    pub samples: usize,
    pub dtype: &'static str,
    /// x, the experts' inner layers, and what gate and routing leave.
    pub x_bytes: usize,
    pub experts_bytes: usize,
    pub routing_bytes: usize,
}

/// What computes, in a line.
pub fn name(facts: Option<&Facts>) -> String {
    let cpu = || format!("{}, {} threads, {}", cpu_name(), rayon::current_num_threads(), instruction_sets().join(" "));
    facts.map_or_else(cpu, |facts| facts.name.clone())
}

pub fn machine(facts: Option<&Facts>, known: &Known) -> Machine {
    let used = known.first();
    Machine {
        cpu: cpu_name(),
        threads: rayon::current_num_threads(),
        instruction_sets: instruction_sets(),
        gpu: facts.map(|facts| facts.name.clone()),
        arch: facts.map(|facts| facts.arch.to_string()),
        multiprocessors: facts.map(|facts| facts.multiprocessors),
        driver: facts.map(|facts| facts.driver),
        gemm_tflops: used.map(|c| c.flops_per_second / 1e12),
        copy_gbs: used.map(|c| c.bytes_per_second / 1e9),
        reached_gemm_tflops: known.reached.map(|c| c.flops_per_second / 1e12),
        reached_copy_gbs: known.reached.map(|c| c.bytes_per_second / 1e9),
        empty_graph_ms: known.empty.map(|times| times.median.as_secs_f64() * 1e3),
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("FAIR_MOE_COMMIT"),
    }
}

/// What the rows of one table have in common.
pub struct Table<'a> {
    pub ceilings: Option<Ceilings>,
    pub shape: &'a str,
    pub samples: usize,
    pub pairs: usize,
    pub dtype: DType,
    pub device: String,
}

impl Table<'_> {
    /// Which shape, on what.
    pub fn heading(&self) -> String {
        let of_pairs = if self.pairs > 0 { format!(", {} pairs", self.pairs) } else { String::new() };
        format!("{} with {} samples{of_pairs}, {} on {}", self.shape, self.samples, self.dtype, self.device)
    }

    /// Prints a line a measurement, below the heading.
    pub fn print(&self, found: &[Measurement], predicted: &[Predicted], out: &mut dyn Write) -> Result<Vec<Row>> {
        say!(out, "\n{}", self.heading())?;
        say!(
            out,
            "stage      pass      launches     GFLOP        MB  median ms      min      max   TFLOP/s     GB/s  floor ms  of floor  predicted  kernel"
        )?;
        let rows: Vec<Row> = found.iter().map(|m| self.row(m, predicted.iter().find(|p| p.part == m.part))).collect();
        rows.iter().try_for_each(|row| print(row, out))?;
        Ok(rows)
    }

    fn row(&self, m: &Measurement, predicted: Option<&Predicted>) -> Row {
        let seconds = m.times.map(|times| times.median.as_secs_f64());
        let floor = self.ceilings.map(|ceilings| m.floor(&ceilings).as_secs_f64());
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Row {
            stage: m.part.0.name(),
            pass: m.part.1.name(),
            shape: self.shape.to_owned(),
            samples: self.samples,
            pairs: self.pairs,
            dtype: self.dtype.name(),
            device: self.device.clone(),
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
            predicted_ms: predicted.map(|p| p.seconds * 1e3),
            predicted_bound: predicted.and_then(|p| p.bound),
            kernel: predicted.map(|p| p.kernel.clone()),
        }
    }

    /// Prints what is kept for backward.
    pub fn print_saved(&self, saved: &Saved, out: &mut dyn Write) -> Result<SavedRow> {
        let [all, x, experts, routing] = [saved.bytes(), saved.x, saved.experts, saved.routing].map(|bytes| bytes as f64 / 1e6);
        say!(out, "kept for backward: {all:.1} MB: x {x:.1}, of the experts {experts:.1}, of gate and routing {routing:.1}")?;
        Ok(SavedRow {
            shape: self.shape.to_owned(),
            samples: self.samples,
            dtype: self.dtype.name(),
            x_bytes: saved.x,
            experts_bytes: saved.experts,
            routing_bytes: saved.routing,
        })
    }
}

fn print(r: &Row, out: &mut dyn Write) -> Result<()> {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let launches = r.launches.map_or("-".into(), |launches| launches.to_string());
    write!(out, "{:<10} {:<9} {launches:>8} {:>9.3} {:>9.3}", r.stage, r.pass, r.flops / 1e9, r.bytes / 1e6).map_err(failed)?;
    write!(out, " {:>10} {:>8} {:>8}", number(r.median_ms, 3), number(r.min_ms, 3), number(r.max_ms, 3)).map_err(failed)?;
    let share = r.floor_share.map_or("-".into(), |share| format!("{:.1}%", 100.0 * share));
    write!(out, " {:>9} {:>8} {:>9} {share:>9}", number(r.tflops, 3), number(r.gbs, 1), number(r.floor_ms, 3)).map_err(failed)?;
    let bound = r.predicted_bound.map_or(String::new(), |bound| format!(", bound by {bound}"));
    match &r.kernel {
        Some(kernel) => say!(out, " {:>10}  {kernel}{bound}", number(r.predicted_ms, 3)),
        None => say!(out),
    }
}
