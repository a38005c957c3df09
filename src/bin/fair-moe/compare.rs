//! `fair-moe compare`: measured models beside each other.

use crate::output::say;
use fair_moe::Result;
use fair_moe::eval::compare;
use fair_moe::files::write_json;
use fair_moe::metrics::Bootstrap;
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Folders of runs, or of single models: any folder in them that holds a metrics.json and a predictions.csv is a model; folders
    /// called seed-N are runs of one model.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Also write everything to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let comparison = compare(&args.runs, &Bootstrap::default())?;
    if let Some(path) = &args.json {
        write_json(path, &comparison)?;
    }
    say!(out, "{}", comparison.to_string().trim_end())
}
