//! What the compiler says of the kernels: registers, spills, shared memory, and anything that it remarks.

use super::driver::Arch;
use super::driver::compiler::Compiler;
use super::driver::nvrtc::{Image, WGMMA};
use super::kernels::{KERNELS, Kernel};
use crate::error::Result;
use std::fmt;

/// What one kernel takes of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Usage {
    /// The kernel.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Stored to memory for want of registers and loaded back, in bytes of a thread.
    pub spill_bytes: u32,
    /// Local memory of a thread, such as of an array that is indexed by a variable.
    pub stack_bytes: u32,
    /// Static shared memory of a block. What is dynamic, the launch decides.
    pub shared_bytes: u32,
    /// How many `wgmma.mma_async` its PTX has.
    pub wgmma: u32,
    /// Warnings and remarks, each a line.
    pub notes: Vec<String>,
}

impl Usage {
    /// Reads the compiler's log.
    pub fn parse(name: &str, log: &str) -> Self {
        let mut usage = Self { name: name.into(), ..Self::default() };
        for line in log.lines().filter(|line| !line.trim().is_empty()) {
            let says = line.strip_prefix("ptxas info").map(|rest| rest.trim_start_matches([' ', ':']));
            if line.contains("bytes stack frame") {
                usage.stack_bytes += number_before(line, "bytes stack frame");
                usage.spill_bytes += number_before(line, "bytes spill stores") + number_before(line, "bytes spill loads");
            } else if says.is_some_and(|says| says.starts_with("Used ")) {
                usage.registers = number_before(line, "registers");
                usage.shared_bytes = number_before(line, "bytes smem");
            } else if line.ends_with(WGMMA) {
                usage.wgmma = number_before(line, WGMMA);
            } else if !says
                .is_some_and(|says| EXPECTED.iter().any(|start| says.starts_with(start)) || says.contains("bytes gmem"))
            {
                usage.notes.push(line.trim().into());
            }
        }
        if name.contains("_wgmma_") && usage.wgmma == 0 {
            usage.notes.push(format!("there is no {WGMMA} in its PTX"));
        }
        usage
    }

    /// Whether there is nothing to mend: no spill, no stack, no note.
    pub fn is_clean(&self) -> bool {
        self.spill_bytes == 0 && self.stack_bytes == 0 && self.notes.is_empty()
    }
}

/// How the lines begin that say nothing new.
const EXPECTED: [&str; 3] = ["Compiling entry function", "Function properties for", "Compile time"];

/// 38 in "Used 38 registers" for "registers"; 0 where it is not said.
fn number_before(line: &str, what: &str) -> u32 {
    let before = line.find(what).map_or("", |at| line[..at].trim_end());
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// All kernels of one architecture.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Report {
    /// As `sm_80`.
    pub arch: String,
    /// The compiler's version.
    pub nvrtc: String,
    /// In the order of the table.
    pub kernels: Vec<Usage>,
}

impl Report {
    /// How many kernels have something to mend.
    pub fn faults(&self) -> usize {
        self.kernels.iter().filter(|usage| !usage.is_clean()).count()
    }
}

/// A table, with every note under its kernel.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} kernels for {}, by NVRTC {}", self.kernels.len(), self.arch, self.nvrtc)?;
        let width = self.kernels.iter().map(|usage| usage.name.len()).max().unwrap_or(0).max(6);
        write!(f, "{:<width$} registers  spilled    stack   shared    wgmma", "kernel")?;
        for usage in &self.kernels {
            let Usage { name, registers, spill_bytes, stack_bytes, shared_bytes, wgmma, notes } = usage;
            write!(f, "\n{name:<width$} {registers:>9} {spill_bytes:>8} {stack_bytes:>8} {shared_bytes:>8} {wgmma:>8}")?;
            notes.iter().try_for_each(|note| write!(f, "\n  {note}"))?;
        }
        Ok(())
    }
}

/// Several reports as JSON: one as an object, more as a list of them.
///
/// # Errors
/// None that this type can have.
#[cfg(feature = "cli")]
pub fn to_json(reports: &[Report]) -> Result<String> {
    let text = match reports {
        [one] => serde_json::to_string_pretty(one),
        several => serde_json::to_string_pretty(several),
    };
    text.map_err(|why| crate::error::Error::Refused(why.to_string()))
}

/// The kernels that exist for `arch`.
pub fn kernels_of(arch: Arch) -> Vec<&'static Kernel> {
    KERNELS.iter().filter(|kernel| !kernel.hopper || arch == Arch::HOPPER).collect()
}

/// Compiles every kernel of `arch`, or takes it from the cache.
///
/// # Errors
/// When one does not compile, or there is neither NVRTC nor cache.
pub fn report(compiler: &Compiler, arch: Arch) -> Result<Report> {
    let kernels = kernels_of(arch);
    let images = compiler.images(&kernels, arch)?;
    let mut versions: Vec<String> = images.iter().map(|image: &Image| image.nvrtc.to_string()).collect();
    versions.sort();
    versions.dedup();
    let usages = kernels.iter().zip(&images).map(|(kernel, image)| Usage::parse(kernel.name, &image.log)).collect();
    Ok(Report { arch: arch.to_string(), nvrtc: versions.join(", "), kernels: usages })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 22 bytes gmem, 56 bytes cmem[4]
ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 38 registers, used 1 barriers, 2048 bytes smem, 512 bytes cmem[0]
ptxas info    : Compile time = 38.902 ms
";

    #[test]
    fn a_clean_log_is_read_whole() {
        let usage = Usage::parse("one", LOG);
        assert_eq!((usage.registers, usage.shared_bytes, usage.is_clean()), (38, 2048, true), "{usage:?}");
        let toolkit = LOG.replace("ptxas         .     0", "    0").replace(", 2048 bytes smem", "");
        let usage = Usage::parse("one", &toolkit);
        assert_eq!((usage.registers, usage.shared_bytes, usage.is_clean()), (38, 0, true), "{usage:?}");
    }

    #[test]
    fn spills_stacks_and_remarks_are_found() {
        let spilled =
            LOG.replace("0 bytes stack frame, 0 bytes spill stores, 0", "16 bytes stack frame, 24 bytes spill stores, 28");
        let usage = Usage::parse("one", &spilled);
        assert_eq!((usage.stack_bytes, usage.spill_bytes, usage.is_clean()), (16, 52, false));
        for note in [
            "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized",
            "one.cu(7): warning #177-D: variable \"x\" was declared but never referenced",
            "ptxas warning : Value of threads per SM for entry one is out of range",
        ] {
            let usage = Usage::parse("one", &format!("{LOG}{note}\n"));
            assert_eq!((usage.notes, usage.registers), (vec![note.to_owned()], 38));
        }
    }

    #[test]
    fn a_kernel_named_wgmma_that_has_none_is_at_fault() {
        let usage = Usage::parse("experts_up_wgmma_128x256_bf16", &format!("{LOG}\n4 wgmma.mma_async\n"));
        assert_eq!((usage.wgmma, usage.is_clean()), (4, true), "{usage:?}");
        let without = Usage::parse("experts_up_wgmma_128x256_bf16", LOG);
        assert_eq!((without.notes.len(), without.is_clean()), (1, false));
        assert!(Usage::parse("experts_up_mma_128x128_bf16", LOG).is_clean());
    }

    #[test]
    fn a_table_names_every_kernel_and_note() {
        let clean = Usage::parse("one_f32", LOG);
        let noted = Usage::parse("another_f32", &format!("{LOG}a remark\n"));
        let report = Report { arch: "sm_80".into(), nvrtc: "13.0".into(), kernels: vec![clean, noted] };
        assert_eq!(report.faults(), 1);
        let lines: Vec<String> = report.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "2 kernels for sm_80, by NVRTC 13.0");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["one_f32", "38", "0", "0", "2048", "0"]);
        assert_eq!((lines[4].as_str(), lines.len()), ("  a remark", 5));
    }

    #[test]
    #[cfg(feature = "cli")]
    fn json_has_the_keys_that_are_promised() {
        let report = Report { arch: "sm_80".into(), nvrtc: "13.0".into(), kernels: vec![Usage::parse("one_f32", LOG)] };
        let json: serde_json::Value = serde_json::from_str(&to_json(std::slice::from_ref(&report)).unwrap()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&json), "arch kernels nvrtc");
        assert_eq!(keys(&json["kernels"][0]), "name notes registers shared_bytes spill_bytes stack_bytes wgmma");
        let list: serde_json::Value = serde_json::from_str(&to_json(&[report.clone(), report]).unwrap()).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 2);
    }
}
