//! `fair-moe check`: every stage against the reference, and what the kernels rely on, on this machine.

use crate::output::{announce, announced, complain, say};
use fair_moe::check::{Finding, Watch, check_fol, check_layer, check_loss};
use fair_moe::gpu::driver::Driver;
use fair_moe::gpu::facts::{self, Verdict};
use fair_moe::{DType, Device, Error, Result};
use half::{bf16, f16};
use std::io::Write;
use std::sync::Arc;

#[derive(clap::Args)]
pub struct Args {
    /// Where to compute: cpu, cuda[:N] or emulated[:SEED][@ARCH]; without it, the best there is.
    #[arg(long)]
    device: Option<Device>,
    /// f64, f32, bf16 or f16; without it, each of them that the device has.
    #[arg(long)]
    dtype: Option<DType>,
    /// Only cases whose names have one of these texts in them, as standard error names each before it runs.
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    case: Vec<String>,
    /// The facts of the hardware that a GPU's kernels rely on: `only` them, which is what --facts alone means, or `none`; without it,
    /// behind the cases.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, default_missing_value = "only")]
    facts: Option<Which>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Only,
    None,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let device = args.device.unwrap_or_else(|| Device::best().0);
    let all = DType::ALL.into_iter().filter(|&dtype| device.driver().is_none() || dtype != DType::F64);
    let dtypes = args.dtype.map_or(all.collect(), |dtype| vec![dtype]);
    let (mut misses, mut failed) = (0, None);
    if args.facts != Some(Which::Only) {
        say!(out, "dtype stage      pass       results     worst     bound  where, on {device}")?;
        let mut begun = 0;
        for dtype in dtypes {
            let mut cases = Cases { dtype, only: &args.case, begun: 0, findings: vec![] };
            let checked = check(&device, dtype, &mut cases);
            announced();
            begun += cases.begun;
            misses += print(dtype, &cases.findings, out)?;
            // The other dtypes are still worth knowing of.
            if let Err(why) = checked {
                say!(out, "{:<5} {why}   MISS", dtype.name())?;
                failed.get_or_insert(why);
            }
        }
        if begun == 0 {
            return Err(Error::config("--case", "in the name of a case", format!("{:?}", args.case)));
        }
    }
    // Behind the kernels: a fact that ends in a fault would take the device's context, and all that follows, with it.
    match device.driver().filter(|_| args.facts != Some(Which::None)) {
        None => {}
        Some(_) if failed.is_some() => {
            say!(out, "facts of the hardware: not tried, since what failed may have taken the device with it; --facts does")?;
        }
        Some(driver) => match try_facts(driver, out) {
            Ok(failing) => misses += failing,
            Err(why) => {
                say!(out, "facts of the hardware: {why}   MISS")?;
                failed.get_or_insert(why);
            }
        },
    }
    match misses {
        _ if failed.is_some() => failed.map_or(Ok(()), Err),
        0 => say!(out, "all within their bounds"),
        _ => Err(Error::Refused(format!("{misses} results are beyond their bounds"))),
    }
}

/// The cases of one dtype that are asked for, and what is found of them.
struct Cases<'a> {
    dtype: DType,
    only: &'a [String],
    begun: usize,
    findings: Vec<Finding>,
}

impl Watch for Cases<'_> {
    fn begin(&mut self, case: &'static str) -> bool {
        let wanted = self.only.is_empty() || self.only.iter().any(|text| case.contains(text));
        if wanted {
            self.begun += 1;
            announce(format_args!("check {}: {case}", self.dtype));
        }
        wanted
    }

    /// The first miss of a case is told at once: of a case that never ends nothing else would be.
    fn find(&mut self, finding: Finding) {
        if !finding.holds() && !self.findings.iter().any(|f| f.case == finding.case && !f.holds()) {
            let Finding { what, error, bound, .. } = finding;
            announced();
            complain(format_args!("a miss in {}: {what} of {:?} is {error:.1e}, beyond {bound:.1e}", self.dtype, finding.case));
        }
        self.findings.push(finding);
    }
}

/// Everything in one dtype, as far as it gets. The loss is always computed in f32 or f64.
fn check(device: &Device, dtype: DType, watch: &mut dyn Watch) -> Result<()> {
    match dtype {
        DType::F64 => check_layer::<f64>(device, watch)?,
        DType::F32 => check_layer::<f32>(device, watch)?,
        DType::F16 => check_layer::<f16>(device, watch)?,
        DType::Bf16 => check_layer::<bf16>(device, watch)?,
    }
    match dtype {
        DType::F64 => check_loss::<f64>(watch),
        DType::F32 if device.driver().is_some() => check_fol(device, watch),
        DType::F32 => check_loss::<f32>(watch),
        DType::F16 | DType::Bf16 => Ok(()),
    }
}

/// What the kernels rely on: one line, and one more for each fact that does not hold. Gives the number of those that do not, or that
/// could not be tried.
fn try_facts(driver: &Arc<dyn Driver>, out: &mut dyn Write) -> Result<usize> {
    let (mut holding, mut failing, mut elsewhere, mut untried) = (0, 0, 0, 0);
    for fact in facts::facts(driver)? {
        if fact.is_here() {
            announce(format_args!("fact {}: {}", fact.number, fact.name));
        }
        let verdict = fact.verdict();
        announced();
        match verdict {
            Verdict::Holds => holding += 1,
            Verdict::NotHere => elsewhere += 1,
            Verdict::Untried => untried += 1,
            Verdict::Tells(answer) => say!(out, "fact {}, {}: {answer}", fact.number, fact.name)?,
            Verdict::Fails(why) => {
                failing += 1;
                say!(out, "fact {}, {}: {why}   MISS", fact.number, fact.name)?;
            }
        }
    }
    let after = if untried > 0 { format!(", {untried} could not be tried after that") } else { String::new() };
    say!(out, "facts of the hardware: {holding} hold, {failing} do not{after}, {elsewhere} are of another architecture")?;
    Ok(failing + untried)
}

/// One line for each stage and pass, with the result that is worst against its bound. Gives the number of misses.
fn print(dtype: DType, findings: &[Finding], out: &mut dyn Write) -> Result<usize> {
    let mut parts: Vec<(&str, &str)> = vec![];
    for f in findings {
        if !parts.contains(&(f.stage, f.pass)) {
            parts.push((f.stage, f.pass));
        }
    }
    for (stage, pass) in parts {
        let of_part = || findings.iter().filter(|f| (f.stage, f.pass) == (stage, pass));
        // NaN counts as the worst.
        let badness = |f: &Finding| if f.error.is_nan() { f64::INFINITY } else { f.error / f.bound.max(f64::MIN_POSITIVE) };
        let Some(worst) = of_part().max_by(|a, b| badness(a).total_cmp(&badness(b))) else { continue };
        let place = format!("{}[{}] of {:?}{}", worst.what, worst.at, worst.case, if worst.holds() { "" } else { "   MISS" });
        let count = of_part().count();
        say!(out, "{:<5} {stage:<10} {pass:<10} {count:>7} {:>9.1e} {:>9.1e}  {place}", dtype.name(), worst.error, worst.bound)?;
    }
    Ok(findings.iter().filter(|f| !f.holds()).count())
}
