//! `fair-moe kernels`: what the compiler makes of every kernel. Needs NVRTC, and no GPU.

use crate::output::say;
use fair_moe::files::write_atomically;
use fair_moe::gpu::driver::Arch;
use fair_moe::gpu::driver::compiler::Compiler;
use fair_moe::gpu::driver::cuda::Cuda;
use fair_moe::gpu::report::{report, to_json};
use fair_moe::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// sm_80, sm_86, sm_89, sm_90a, sm_100a or sm_120a; without it, that of the GPU here, and where there is none, all of them.
    #[arg(long)]
    arch: Option<Arch>,
    /// Where to write the figures as JSON: an object, or a list of them where there are several architectures.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let gpu = Cuda::devices().ok().and_then(|all| all.into_iter().find(|facts| Arch::ALL.contains(&facts.arch)));
    let archs = args.arch.or(gpu.as_ref().map(|facts| facts.arch)).map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
    let compiler = Compiler::find(gpu.map(|facts| facts.driver));
    let mut reports = vec![];
    for arch in archs {
        let report = report(&compiler, arch)?;
        say!(out, "{report}\n")?;
        reports.push(report);
    }
    if let Some(path) = &args.json {
        let text = to_json(&reports)?;
        write_atomically(path, |file| writeln!(file, "{text}"))?;
    }
    match reports.iter().map(|report| report.faults()).sum::<usize>() {
        0 => say!(out, "none spills, none has a stack, and the compiler remarks nothing"),
        faults => Err(Error::Refused(format!("{faults} kernels spill, have a stack, or are remarked on"))),
    }
}
