//! `fair-moe report`: pages for people, from what training and evaluation wrote.

use crate::output::say;
use fair_moe::{Result, report};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Folders of models, or of whole runs: each model with a metrics.json gets a report.html.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Folder for the page that compares several models [default: the first folder if it is a run, otherwise the one that it lies in].
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    tell(report::write_all(&args.folders, args.out.as_deref())?, out)
}

/// Writes the reports of whatever was just measured in these folders.
pub fn write(folders: &[PathBuf], out: &mut dyn Write) -> Result<()> {
    tell(report::write_all(folders, None)?, out)
}

fn tell(pages: Vec<PathBuf>, out: &mut dyn Write) -> Result<()> {
    pages.iter().try_for_each(|page| say!(out, "{}", page.display()))
}
