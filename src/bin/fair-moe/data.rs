//! `data make`: data sets with a known bias. `data check`: what is in a data set, and what is wrong with it.

use crate::output::say;
use fair_moe::data::{ATTRIBUTES, GROUP_NAMES, MakeConfig, Report, Split, check, make};
use fair_moe::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a data set in FairVLMed's layout whose bias is known.
    Make(MakeArgs),
    /// Read everything in a data set, count what it holds, and name every bad file and why; code 1 if anything is bad.
    Check {
        /// The data set's folder.
        data: PathBuf,
    },
}

#[derive(clap::Args)]
struct MakeArgs {
    /// The folder to make; it must be new, or empty.
    #[arg(long)]
    out: PathBuf,
    /// How many samples: 7 in 10 for training, 1 for validation, 2 for the test.
    #[arg(long, default_value_t = 2000)]
    samples: usize,
    /// How strong the bias against one group is, from 0 (none) to 2.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    bias: f64,
    /// Another seed gives other patients; the same one gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    match args.command {
        Command::Make(MakeArgs { out: folder, samples, bias, seed }) => {
            make(&folder, &MakeConfig { samples, bias, seed })?;
            say!(out, "made {samples} samples in {} (bias {bias}, seed {seed})", folder.display())
        }
        Command::Check { data } => {
            let report = check(&data)?;
            print(&report, out)?;
            match report.problems.len() {
                0 => say!(out, "nothing is wrong"),
                n => Err(Error::file(data, format!("problems in this data set: {n}"))),
            }
        }
    }
}

fn print(report: &Report, out: &mut dyn Write) -> Result<()> {
    for problem in &report.problems {
        say!(out, "{problem}")?;
    }
    let columns = |figure: fn(&fair_moe::data::SplitReport) -> usize| report.splits.each_ref().map(figure);
    line(out, "", &Split::ALL)?;
    line(out, "files", &columns(|s| s.files))?;
    line(out, "whole", &columns(|s| s.whole))?;
    line(out, "glaucoma", &columns(|s| s.positives))?;
    line(out, "without a note", &columns(|s| s.without_note))?;
    line(out, "attribute unknown", &columns(|s| s.incomplete))?;
    for (a, attribute) in ATTRIBUTES.into_iter().enumerate() {
        say!(out, "{attribute}: without and with glaucoma")?;
        for (g, name) in GROUP_NAMES[a].iter().copied().chain(["unknown"]).enumerate() {
            let labels = report.splits.each_ref().map(|split| split.groups[a][g]);
            line(out, &format!("  {name}"), &labels.map(|[negative, positive]| format!("{negative} + {positive}")))?;
        }
    }
    for ((height, width), count) in &report.sizes {
        say!(out, "{count} images of {height} x {width} pixels")?;
    }
    Ok(())
}

/// One line of the table: a column for each split.
fn line(out: &mut dyn Write, what: &str, [a, b, c]: &[impl std::fmt::Display; 3]) -> Result<()> {
    say!(out, "{what:<20} {a:>14} {b:>14} {c:>14}")
}
