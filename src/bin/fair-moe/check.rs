//! `fair-moe check`: every stage against the reference, and what the kernels rely on, on this machine.

use crate::output::say;
use fair_moe::check::{Finding, check_fol, check_layer, check_loss};
use fair_moe::gpu::facts::{Verdict, check_facts};
use fair_moe::{DType, Device, Error, Result};
use half::{bf16, f16};
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {
    /// Where to compute: cpu, cuda[:N] or emulated[:SEED][@ARCH]; without it, the best there is.
    #[arg(long)]
    device: Option<Device>,
    /// f64, f32, bf16 or f16; without it, each of them that the device has.
    #[arg(long)]
    dtype: Option<DType>,
    /// Of a GPU: only the facts of the hardware that its kernels rely on.
    #[arg(long)]
    facts: bool,
}

pub fn run(args: Args, out: &mut dyn Write) -> Result<()> {
    let device = args.device.unwrap_or_else(|| Device::best().0);
    let all = DType::ALL.into_iter().filter(|&dtype| device.driver().is_none() || dtype != DType::F64);
    let dtypes = args.dtype.map_or(all.collect(), |dtype| vec![dtype]);
    let (mut misses, mut failed) = (0, None);
    if !args.facts {
        say!(out, "dtype stage      pass       results     worst     bound  where, on {device}")?;
        for dtype in dtypes {
            let mut findings = vec![];
            let checked = check(&device, dtype, &mut findings);
            misses += print(dtype, &findings, out)?;
            // The other dtypes are still worth knowing of.
            if let Err(why) = checked {
                say!(out, "{:<5} {why}   MISS", dtype.name())?;
                failed.get_or_insert(why);
            }
        }
    }
    // Behind the kernels: a fact that ends in a fault would take the device's context, and all that follows, with it.
    match facts(&device, out) {
        Ok(failing) => misses += failing,
        Err(why) => {
            say!(out, "facts of the hardware: {why}   MISS")?;
            failed.get_or_insert(why);
        }
    }
    match misses {
        _ if failed.is_some() => failed.map_or(Ok(()), Err),
        0 => say!(out, "all within their bounds"),
        _ => Err(Error::Refused(format!("{misses} results are beyond their bounds"))),
    }
}

/// Everything in one dtype, as far as it gets. The loss is always computed in f32 or f64.
fn check(device: &Device, dtype: DType, findings: &mut Vec<Finding>) -> Result<()> {
    match dtype {
        DType::F64 => check_layer::<f64>(device, findings)?,
        DType::F32 => check_layer::<f32>(device, findings)?,
        DType::F16 => check_layer::<f16>(device, findings)?,
        DType::Bf16 => check_layer::<bf16>(device, findings)?,
    }
    findings.extend(match dtype {
        DType::F64 => check_loss::<f64>()?,
        DType::F32 if device.driver().is_some() => check_fol(device)?,
        DType::F32 => check_loss::<f32>()?,
        DType::F16 | DType::Bf16 => vec![],
    });
    Ok(())
}

/// What the kernels rely on: one line, and one more for each fact that does not hold. Gives their number.
fn facts(device: &Device, out: &mut dyn Write) -> Result<usize> {
    let Some(driver) = device.driver() else { return Ok(0) };
    let (mut holding, mut failing, mut elsewhere) = (0, 0, 0);
    for fact in check_facts(driver)? {
        match fact.verdict {
            Verdict::Holds => holding += 1,
            Verdict::NotHere => elsewhere += 1,
            Verdict::Fails(why) => {
                failing += 1;
                say!(out, "fact {}, {}: {why}   MISS", fact.number, fact.name)?;
            }
        }
    }
    say!(out, "facts of the hardware: {holding} hold, {failing} do not, {elsewhere} are of another architecture")?;
    Ok(failing)
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
