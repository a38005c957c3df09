//! `fair-moe tokens`: a text as CLIP takes it.

use crate::output::{complain, say};
use fair_moe::Result;
use fair_moe::data::{CONTEXT, Tokens};
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {
    /// The text, one argument. It may begin with `-`; one like `--help` stands behind `--`.
    #[arg(allow_hyphen_values = true)]
    text: String,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let Tokens { ids, is_cut } = Tokens::of(&args.text);
    if is_cut {
        complain(format!("the text has more than {CONTEXT} tokens, its start and its end among them: what is beyond is cut off"));
    }
    say!(out, "{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
}
