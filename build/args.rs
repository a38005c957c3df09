//! The structs of `kernels/args/*.cuh`, which Rust and the kernels share. Their grammar is small: one field a line, of a pointer,
//! `int`, `unsigned`, `int64_t`, `float`, `double` or another of these structs, with an array length behind it or none.

use super::sources::File;
use std::fmt::Write;

pub struct Struct {
    name: String,
    docs: Vec<String>,
    /// What a kernel takes is aligned to 64 bytes, as tensor maps have to be.
    aligned: bool,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    rust: String,
    docs: String,
}

/// Whether it declares such structs.
pub fn is_args(file: &File) -> bool {
    file.name.starts_with("args/") || cfg!(feature = "emulate") && file.name == "planted/args.cuh"
}

pub fn parse(files: &[File]) -> Vec<Struct> {
    let mut structs = vec![];
    for file in files.iter().filter(|file| is_args(file)) {
        let mut docs = vec![];
        let mut open: Option<Struct> = None;
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim();
            let wrong = || panic!("kernels/{}:{}: not one field a line: {line}", file.name, number + 1);
            if let Some(doc) = line.strip_prefix("//") {
                docs.push(doc.trim().to_owned());
            } else if let Some(rest) = line.strip_prefix("struct ") {
                let words = rest.trim_end_matches('{').trim();
                let aligned = words.strip_prefix("alignas(64) ");
                let name = aligned.unwrap_or(words).to_owned();
                open = Some(Struct { name, docs: std::mem::take(&mut docs), aligned: aligned.is_some(), fields: vec![] });
            } else if line == "};" {
                structs.push(open.take().unwrap_or_else(wrong));
            } else if let Some(open) = &mut open {
                let above = std::mem::take(&mut docs).join(" ");
                if !line.is_empty() {
                    open.fields.extend(field(line, above));
                }
            } else {
                docs.clear();
            }
        }
    }
    structs
}

/// `const float* weights;   // [N, E]`, or several of one type: `int rows, width;`.
fn field(line: &str, above: String) -> Vec<Field> {
    let (code, doc) = line.split_once("//").unwrap_or((line, ""));
    let docs = format!("{above} {}", doc.trim()).trim().to_owned();
    let code = code.trim().trim_end_matches(';');
    let (kind, names) = match code.rsplit_once('*') {
        Some((_, names)) => ("u64", names),
        None => code.split_once(' ').unwrap_or((code, "")),
    };
    let rust = match kind {
        "int" => "i32",
        "unsigned" => "u32",
        "int64_t" => "i64",
        "float" => "f32",
        "double" => "f64",
        other => other,
    };
    let one = |name: &str| {
        let (name, length) = match name.trim().split_once('[') {
            Some((name, length)) => (name, Some(length.trim_end_matches(']'))),
            None => (name.trim(), None),
        };
        let rust = length.map_or(rust.to_owned(), |length| format!("[{rust}; {length}]"));
        Field { name: name.to_owned(), rust, docs: docs.clone() }
    };
    names.split(',').map(one).collect()
}

/// Shapes such as [N, E] are no links.
fn plain(doc: &str) -> String {
    doc.replace('[', "\\[").replace(']', "\\]").replace('<', "\\<")
}

/// The structs, `Args` for those that kernels take, and the table `LAYOUT` of (struct, field, offset).
pub fn to_rust(structs: &[Struct]) -> String {
    let mut text = String::new();
    for s in structs {
        s.docs.iter().for_each(|doc| writeln!(text, "/// {}", plain(doc)).unwrap_or(()));
        let align = if s.aligned { ", align(64)" } else { "" };
        let _ =
            writeln!(text, "#[repr(C{align})]\n#[derive(Clone, Copy, Debug)]\n#[allow(missing_docs)]\npub struct {} {{", s.name);
        for f in &s.fields {
            if !f.docs.is_empty() {
                let _ = writeln!(text, "    /// {}", plain(&f.docs));
            }
            let _ = writeln!(text, "    pub {}: {},", f.name, f.rust);
        }
        text.push_str("}\n");
        let _ = writeln!(text, "impl Default for {} {{\n    fn default() -> Self {{\n        zeroed()\n    }}\n}}", s.name);
        let _ = writeln!(text, "impl Plain for {} {{}}", s.name);
        if s.aligned {
            let _ = writeln!(text, "impl Args for {0} {{\n    const NAME: &'static str = {0:?};\n}}", s.name);
        }
    }
    text.push_str("/// (struct, field, offset) of every field, each struct led by its size.\npub static LAYOUT: &[(&str, &str, usize)] = &[\n");
    for s in structs {
        let _ = writeln!(text, "    ({0:?}, \"\", size_of::<{0}>()),", s.name);
        for f in &s.fields {
            let _ = writeln!(text, "    ({0:?}, {1:?}, std::mem::offset_of!({0}, {1})),", s.name, f.name);
        }
    }
    text.push_str("];\n");
    text
}

/// The same table as the C++ compiler sees it.
#[cfg(feature = "emulate")]
pub fn to_cpp(structs: &[Struct]) -> String {
    let mut text = String::from("extern \"C\" const unsigned long long fair_moe_layout[] = {\n");
    for s in structs {
        let _ = writeln!(text, "  sizeof({}),", s.name);
        for f in &s.fields {
            let _ = writeln!(text, "  __builtin_offsetof({}, {}),", s.name, f.name);
        }
    }
    text.push_str("};\n");
    text
}
