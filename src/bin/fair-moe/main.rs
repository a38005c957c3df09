//! The command line. Each subcommand is a file of its own, with its arguments, `Args`, and
//! `run(args, out) -> fair_moe::Result<()>`; whatever it prints goes to `out`, by [`output::say`].

mod bench;
mod check;
mod compare;
mod convert;
mod data;
mod eval;
mod info;
#[cfg(feature = "cuda")]
mod kernels;
mod output;
mod report;
mod run;
mod tokens;
mod train;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Fair mixtures of experts: the reference model, and checks and measurements of the layer and the loss.
#[derive(Parser)]
#[command(name = "fair-moe", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train plain CLIP and Fair-MoE side by side, and compare them.
    Train(train::Args),
    /// Tell how accurate and how fair a saved model is.
    Eval(eval::Args),
    /// Put measured models beside each other, with intervals and differences.
    Compare(compare::Args),
    /// Write what people read: a page of figures for each model, and one that compares them.
    Report(report::Args),
    /// Make a data set, or check one.
    Data(data::Args),
    /// Write a model that anybody saved as a safetensors file, and tell what became of every key.
    Convert(convert::Args),
    /// Check every stage against the reference here; exit code 1 on a miss.
    Check(check::Args),
    /// Measure how long each stage takes here.
    Bench(bench::Args),
    /// Replay a recorded case and write what comes out.
    Run(run::Args),
    /// Compile every CUDA kernel: registers, spills, shared memory; exit code 1 where there is something to mend.
    #[cfg(feature = "cuda")]
    Kernels(kernels::Args),
    /// Print the 77 token ids of a text, as CLIP takes it.
    Tokens(tokens::Args),
    /// Tell what this binary is and what it finds on this machine.
    Info(info::Args),
}

impl Command {
    fn run(self, out: &mut dyn Write) -> fair_moe::Result<()> {
        match self {
            Command::Train(args) => train::run(args, out),
            Command::Eval(args) => eval::run(args, out),
            Command::Compare(args) => compare::run(args, out),
            Command::Report(args) => report::run(args, out),
            Command::Data(args) => data::run(args, out),
            Command::Convert(args) => convert::run(args, out),
            Command::Check(args) => check::run(args, out),
            Command::Bench(args) => bench::run(args, out),
            Command::Run(args) => run::run(args, out),
            #[cfg(feature = "cuda")]
            Command::Kernels(args) => kernels::run(args, out),
            Command::Tokens(args) => tokens::run(args, out),
            Command::Info(args) => info::run(args, out),
        }
    }
}

/// Code 0: done. 1: an error, in one sentence on standard error. 2: wrong arguments.
fn main() -> ExitCode {
    let mut out = output::Output::default();
    let result = match Cli::try_parse() {
        Ok(cli) => cli.command.run(&mut out),
        Err(usage) if usage.use_stderr() => {
            output::complain(sentence(&usage.render().to_string()));
            return ExitCode::from(2);
        }
        Err(help) => write!(out, "{}", help.render()).map_err(output::failed),
    };
    match result.and_then(|()| out.flush().map_err(output::failed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if out.is_closed() => ExitCode::FAILURE,
        Err(error) => {
            output::complain(error);
            ExitCode::FAILURE
        }
    }
}

/// The first paragraph of a message on one line: what is wrong, without the advice behind it.
fn sentence(message: &str) -> String {
    let first = message.split("\n\n").next().unwrap_or(message);
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}
