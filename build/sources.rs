//! The kernels' files, and the kernels that they define.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One file under `kernels/`.
pub struct File {
    /// Its path below `kernels/`, as other files include it.
    pub name: String,
    pub path: PathBuf,
    pub text: String,
}

/// All device sources (`.cu`, `.cuh`), in the order of their names.
pub fn find(folder: &Path) -> Vec<File> {
    let (mut files, mut folders) = (vec![], vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|why| panic!("{}: {why}", next.display())).flatten() {
            let path = entry.path();
            let kind = path.extension().unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if kind == "cu" || kind == "cuh" {
                let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                files.push(File { name, path, text });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// One line `KERNEL(name, Args, threads, blocks, body)`, or `HOPPER_KERNEL(...)`, or `EARLY_HOPPER_KERNEL(...)`.
struct Kernel<'a> {
    name: &'a str,
    args: &'a str,
    threads: &'a str,
    hopper: bool,
}

fn kernel(line: &str) -> Option<Kernel<'_>> {
    let (kind, rest) = line.split_once("KERNEL(").filter(|(kind, _)| ["", "HOPPER_", "EARLY_HOPPER_"].contains(kind))?;
    let hopper = !kind.is_empty();
    let mut fields = rest.splitn(5, ',').map(str::trim);
    Some(Kernel { name: fields.next()?, args: fields.next()?, threads: fields.next()?, hopper })
}

/// Whether it belongs to the tests of the emulation, and is no part of what users compile.
pub fn is_planted(file: &File) -> bool {
    file.name.starts_with("planted/")
}

/// The tables `SOURCES`, `KERNELS` and, for the tests, `PLANTED`.
pub fn to_rust(files: &[File]) -> String {
    let mut text =
        String::from("/// (name below `kernels/`, text) of every device source.\npub static SOURCES: &[(&str, &str)] = &[\n");
    for file in files.iter().filter(|file| !is_planted(file)) {
        let _ = writeln!(text, "    ({:?}, include_str!({:?})),", file.name, file.path);
    }
    text.push_str("];\n/// All kernels.\npub static KERNELS: &[Kernel] = &[\n");
    table(files.iter().filter(|file| !is_planted(file)), &mut text);
    text.push_str("];\n/// Those that test the emulation.\n#[cfg(feature = \"emulate\")]\npub static PLANTED: &[Kernel] = &[\n");
    table(files.iter().filter(|file| is_planted(file)), &mut text);
    text.push_str("];\n");
    text
}

fn table<'a>(files: impl Iterator<Item = &'a File>, text: &mut String) {
    for file in files.filter(|file| file.name.ends_with(".cu")) {
        for Kernel { name, args, threads, hopper } in file.text.lines().filter_map(kernel) {
            let bytes = format!("size_of::<super::args::{args}>()");
            let (name, file) = (format!("{name:?}"), format!("{:?}", file.name));
            let _ = writeln!(
                text,
                "    Kernel {{ name: {name}, file: {file}, args: {args:?}, args_bytes: {bytes}, threads: {threads}, hopper: {hopper} }},"
            );
        }
    }
}
