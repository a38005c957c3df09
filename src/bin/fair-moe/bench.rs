//! `fair-moe bench`: how long each stage takes, the layer and the loss, and how far that is from what this machine can do.

mod known;
mod rows;

use crate::output::{announce, announced, say};
use fair_moe::bench::{
    DeviceLayer, DeviceLoss, Fill, Found, LayerWork, LossWork, Measurement, Predicted, Saved, Shape, StepWork, card, card_of,
    measure, peak_memory, predicted, roofline,
};
use fair_moe::files::{write_atomically, write_json};
use fair_moe::gpu::driver::Facts;
use fair_moe::{DType, Device, Element, Error, Result};
use half::{bf16, f16};
use known::Known;
use rows::{Failure, Report, Row, SavedRow, Table, machine, name};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Where to compute: cpu, cuda[:N] or emulated[:SEED][@ARCH], which only counts; without it, the best there is for the dtype.
    #[arg(long)]
    device: Option<Device>,
    /// vit-b16-image, vit-b16-text, vit-l14-image or vit-l14-text, experts as full as can be; with -fresh behind it: gates as PyTorch
    /// initialises them; with -pruned: one row a sample needed; with -skewed: all rows to one expert. Or a language model's, from given
    /// probabilities: swiglu-1.4b, swiglu-7b, swiglu-30b, swiglu-120b, olmoe or qwen3-30b. One or several.
    #[arg(long, default_value = "vit-b16-image", num_args = 1..)]
    shape: Vec<Shape>,
    /// Instead of layers: a whole training step of preset paper's ViT-B/16 on the CPU, with parameters in f32 that compute in the dtype.
    #[arg(long)]
    step: bool,
    /// With --step: experts run on every row, also on those that nothing reads afterwards.
    #[arg(long, requires = "step")]
    unpruned: bool,
    /// B; the language models' shapes have their own.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    /// f64, f32, bf16 or f16. The loss is computed in f64 for f64, in f32 otherwise.
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// Instead of measuring: what the cost model that chooses tiles says of each kernel on a card that need not be here, such as H200
    /// or A100.
    #[arg(long, value_name = "CARD", num_args = 0..=1, default_missing_value = "H200", conflicts_with_all = ["device", "step"])]
    predict: Option<String>,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where to draw speed over arithmetic intensity, each part under the machine's roof, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// How long each part is measured on the CPU, and on a GPU, whose parts mostly take less than a millisecond.
const ON_CPU: Duration = Duration::from_secs(1);
const ON_GPU: Duration = Duration::from_millis(200);

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    if let Some(name) = &args.predict {
        return predict(&args, &card(name)?, out);
    }
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
    let name = name(facts);
    say!(out, "{name}")?;
    let known = Known::of::<T>(&device, out)?;
    let mut all = Findings::new(args, known, facts, format!("{} on {name}", T::DTYPE));
    let asked = args.samples as usize;
    if args.step {
        if device.driver().is_some() {
            return Err(Error::Refused(format!("a training step is measured on the CPU, not on {device}: add --device cpu")));
        }
        let mut step = StepWork::new(asked, T::DTYPE, !args.unpruned)?;
        let shape = if args.unpruned { "vit-b16-step-unpruned" } else { "vit-b16-step" };
        let ceilings = all.known.first();
        let table = Table { ceilings, shape, samples: asked, pairs: 0, dtype: T::DTYPE, device: device.to_string() };
        all.add(&table, measure(&mut step, ON_CPU)?, vec![], out)?;
        let memory = peak_memory().map_or("unknown".into(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        say!(out, "{} parameters that are trained, peak memory {memory}", step.parameters())?;
        all.write()?;
    } else {
        if facts.is_some() && all.known.first().is_none() {
            all.keep("ceilings", out, |all, out| all.known.complete::<T>(&device, out))?;
        }
        for shape in &args.shape {
            all.keep(&shape.name, out, |all, out| run_shape::<T>(all, shape, &device, out))?;
        }
        // Last, so that what a profiler sees first is what is measured.
        all.keep("ceilings", out, |all, out| all.known.complete::<T>(&device, out))?;
    }
    all.end()
}

fn run_shape<T: Element>(all: &mut Findings, shape: &Shape, device: &Device, out: &mut dyn Write) -> Result<()> {
    announce(format_args!("bench {}: {}", T::DTYPE, shape.name));
    let samples = shape.samples_or(all.args.samples as usize);
    let measured = measured::<T>(shape, samples, device);
    announced();
    let (pairs, found) = measured?;
    // What is predicted is of an even load, as large as can be.
    let comparable = all.facts.filter(|_| matches!(shape.fill, Fill::Even | Fill::Pruned));
    let predictions = comparable.map(|facts| predicted(&card_of(facts), shape, samples, T::DTYPE)).transpose()?;
    let (ceilings, dtype, name) = (all.known.first(), T::DTYPE, device.to_string());
    let table = Table { ceilings, shape: &shape.name, samples, pairs, dtype, device: name };
    all.add(&table, found, predictions.map_or(vec![], |of| of.1), out)?;
    if all.facts.is_some() {
        all.saved.push(table.print_saved(&Saved::of(shape, samples, dtype)?, out)?);
    }
    Ok(())
}

/// The same table with nothing measured.
fn predict(args: &Args, card: &Facts, out: &mut dyn Write) -> Result<()> {
    let (dtype, name) = (args.dtype, &card.name);
    say!(out, "{name}: predictions, of which nothing was measured")?;
    let mut known = Known::default();
    known.add_card(card, dtype, out)?;
    let mut all = Findings::new(args, known, Some(card), format!("{dtype} on {name}"));
    for shape in &args.shape {
        let samples = shape.samples_or(args.samples as usize);
        let (pairs, predictions) = predicted(card, shape, samples, dtype)?;
        let unmeasured = |p: &Predicted| Measurement { part: p.part, times: None, launches: None, cost: p.cost };
        let found = predictions.iter().map(unmeasured).collect();
        let ceilings = all.known.first();
        let table = Table { ceilings, shape: &shape.name, samples, pairs, dtype, device: name.clone() };
        all.add(&table, found, predictions, out)?;
        all.saved.push(table.print_saved(&Saved::of(shape, samples, dtype)?, out)?);
    }
    all.write()
}

/// What was found of all shapes so far, and where it goes.
struct Findings<'a> {
    args: &'a Args,
    known: Known,
    facts: Option<&'a Facts>,
    /// In what, on what.
    on: String,
    results: Vec<Row>,
    saved: Vec<SavedRow>,
    drawn: Vec<(String, Vec<Measurement>, Vec<Predicted>)>,
    failed: Vec<Failure>,
    first_failure: Option<Error>,
}

impl<'a> Findings<'a> {
    fn new(args: &'a Args, known: Known, facts: Option<&'a Facts>, on: String) -> Self {
        let (results, saved, drawn, failed) = Default::default();
        Self { args, known, facts, on, results, saved, drawn, failed, first_failure: None }
    }

    fn add(&mut self, table: &Table<'_>, found: Vec<Measurement>, predicted: Vec<Predicted>, out: &mut dyn Write) -> Result<()> {
        self.results.extend(table.print(&found, &predicted, out)?);
        self.drawn.push((table.heading(), found, predicted));
        Ok(())
    }

    /// Does one thing more and writes the files anew: what fails, or never ends, takes nothing else with it.
    fn keep(
        &mut self,
        what: &str,
        out: &mut dyn Write,
        then: impl FnOnce(&mut Self, &mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        if let Err(why) = then(self, out) {
            say!(out, "{what}: {why}")?;
            self.failed.push(Failure { what: what.to_owned(), why: why.to_string() });
            self.first_failure.get_or_insert(why);
        }
        self.write()
    }

    /// Writes the files that are asked for.
    fn write(&self) -> Result<()> {
        let Self { args, known, facts, on, results, saved, drawn, failed, .. } = self;
        if let Some(path) = &args.plot {
            let found = drawn.iter().map(|(heading, measured, predicted)| Found { heading, measured, predicted });
            let svg = roofline(format!("Roofline, {on}"), &known.all, &found.collect::<Vec<_>>());
            write_atomically(path, |file| file.write_all(svg.as_bytes()))?;
        }
        let report = Report { machine: machine(*facts, known), results, saved, failed };
        args.json.as_ref().map_or(Ok(()), |path| write_json(path, &report))
    }

    /// The first failure, if there was one.
    fn end(self) -> Result<()> {
        self.first_failure.map_or(Ok(()), Err)
    }
}

/// P, and what was found of every part.
fn measured<T: Element>(shape: &Shape, samples: usize, device: &Device) -> Result<(usize, Vec<Measurement>)> {
    if device.driver().is_some() {
        let layer = DeviceLayer::<T>::new(shape, samples, device)?;
        let (pairs, mut found) = (layer.pairs(), layer.measure(ON_GPU)?);
        drop(layer);
        if !shape.given {
            found.extend(DeviceLoss::new(shape, samples, device)?.measure(ON_GPU)?);
        }
        return Ok((pairs, found));
    }
    let mut layer = LayerWork::<T>::new(shape, samples)?;
    let mut found = measure(&mut layer, ON_CPU)?;
    if !shape.given {
        found.extend(measure(&mut LossWork::<T::Wide>::new(shape, samples)?, ON_CPU)?);
    }
    Ok((layer.pairs(), found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use fair_moe::bench::{Cost, Pass, Stage};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_fails_takes_none_of_the_other_figures_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.json");
        let args = Line::parse_from(["bench".as_ref(), "--json".as_ref(), path.as_os_str()]).args;
        let mut all = Findings::new(&args, Known::default(), None, "f32 on nothing".into());
        let part = (Stage::Layer, Pass::Forward);
        let found = vec![Measurement { part, times: None, launches: Some(5), cost: Cost::default() }];
        let table = Table { ceilings: None, shape: "first", samples: 1, pairs: 2, dtype: DType::F32, device: "none".into() };
        let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
        let mut out = vec![];
        all.keep("first", &mut out, |all, out| all.add(&table, found, vec![], out)).unwrap();
        assert_eq!((&read()["results"][0]["launches"], &read()["failed"]), (&5.into(), &serde_json::json!([])));
        for what in ["second", "ceilings"] {
            all.keep(what, &mut out, |_, _| Err(Error::Refused(format!("no room for {what}")))).unwrap();
        }
        let report = read();
        assert_eq!((report["results"].as_array().unwrap().len(), &report["results"][0]["shape"]), (1, &"first".into()));
        assert_eq!(report["failed"][1], serde_json::json!({"what": "ceilings", "why": "no room for ceilings"}));
        assert!(String::from_utf8(out).unwrap().ends_with("second: no room for second\nceilings: no room for ceilings\n"));
        assert_eq!(all.end().unwrap_err().to_string(), "no room for second");
    }
}
