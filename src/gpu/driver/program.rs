//! What NVRTC is handed for one kernel: its file with the other kernels' lines left empty, and the headers that it includes.

use super::Arch;
use crate::gpu::kernels::{Kernel, SOURCES};

/// Source text with its headers, all of it in memory.
#[derive(Clone, Debug)]
pub struct Program {
    /// What a compiler's messages call it.
    pub name: String,
    /// The text to compile.
    pub text: String,
    /// (name as it is included, text) of every header that it includes, however deep.
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Program {
    /// The program of one kernel alone. Its lines stand where they stand in the file.
    pub fn of(kernel: &Kernel) -> Self {
        let whole = SOURCES.iter().find(|source| source.0 == kernel.file).map_or("", |source| source.1);
        let other = |line: &str| match line.split_once("KERNEL(") {
            Some(("" | "HOPPER_" | "EARLY_HOPPER_", rest)) => rest.split(',').next().map(str::trim) != Some(kernel.name),
            _ => false,
        };
        let text: String = whole.lines().flat_map(|line| [if other(line) { "" } else { line }, "\n"]).collect();
        Self::new(kernel.file, text)
    }

    /// A program of any text, with the headers of `kernels/` that it includes.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let mut headers: Vec<(&str, &str)> = vec![];
        let mut open: Vec<&str> = includes(&text).filter_map(header).map(|h| h.0).collect();
        while let Some(found) = open.pop().and_then(header) {
            if !headers.contains(&found) {
                open.extend(includes(found.1));
                // What is no device header is for the emulation, and never reached here.
                open.retain(|name| header(name).is_some());
                headers.push(found);
            }
        }
        headers.sort();
        Self { name: name.into(), text, headers }
    }

    /// The compiler's options for `arch`. The log then tells of registers, spills and shared memory.
    pub fn options(arch: Arch) -> [String; 4] {
        // Before 13.2, NVRTC takes generic lambdas for functions of the host unless everything is the device's.
        let device = "--device-as-default-execution-space".into();
        [format!("--gpu-architecture={arch}"), "--std=c++17".into(), device, "--ptxas-options=-v".into()]
    }

    /// What tells this program for `arch` from every other: all that NVRTC reads of it, and this crate's version.
    pub fn key(&self, arch: Arch) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        // Each part is led by its length, so that no two lists run together into the same bytes.
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        };
        add(env!("CARGO_PKG_VERSION"));
        Self::options(arch).iter().for_each(|option| add(option));
        [(self.name.as_str(), self.text.as_str())].iter().chain(&self.headers).for_each(|(name, text)| {
            add(name);
            add(text);
        });
        hasher.finalize()
    }
}

/// The names in `#include "..."` lines.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.strip_suffix('"'))
}

fn header(name: &str) -> Option<(&'static str, &'static str)> {
    SOURCES.iter().find(|source| source.0 == name && name.ends_with(".cuh")).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::find;

    #[test]
    fn a_program_has_its_own_kernel_alone_and_the_headers_it_needs() {
        let program = Program::of(find("combine_f16").unwrap());
        let kernels: Vec<_> = program.text.lines().filter(|line| line.contains("KERNEL(")).collect();
        assert_eq!(kernels.len(), 1);
        assert!(kernels[0].starts_with("KERNEL(combine_f16,"));
        let names: Vec<_> = program.headers.iter().map(|header| header.0).collect();
        assert!(names.contains(&"args/combine.cuh") && names.contains(&"lib/ptx.cuh"), "{names:?}");
        assert!(names.iter().all(|name| !name.starts_with("host/")), "{names:?}");
    }

    #[test]
    fn a_key_tells_kernels_architectures_and_texts_apart() {
        let of = |name| Program::of(find(name).unwrap());
        let one = of("combine_f32");
        assert_eq!(one.key(Arch(80)), of("combine_f32").key(Arch(80)));
        assert_ne!(one.key(Arch(80)), of("combine_f16").key(Arch(80)));
        assert_ne!(one.key(Arch(80)), one.key(Arch(86)));
        let changed = Program { headers: vec![], ..one.clone() };
        assert_ne!(one.key(Arch(80)), changed.key(Arch(80)));
    }
}
