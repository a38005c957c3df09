//! `data make`: data sets with a known bias. `data check`: what is in a data set, and what is wrong with it.

use crate::output::say;
use fair_moe::Result;
use fair_moe::data::{MakeConfig, make};
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
    }
}
