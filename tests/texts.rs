//! CLIP's token ids of texts as OpenAI's own tokenizer gives them, whatever happened to the texts before.
#![cfg(all(feature = "cli", feature = "model"))]

use fair_moe::data::{CONTEXT, Tokens, tokenize};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Recorded by `tests/data/make_texts.py`, or by it in a larger file that `FAIR_MOE_TEXTS` names.
fn recorded() -> Vec<(String, Vec<u32>)> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/texts.zip");
    let path = std::env::var_os("FAIR_MOE_TEXTS").map_or(beside, Into::into);
    let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    serde_json::from_reader(archive.by_name("texts.json").unwrap()).unwrap()
}

#[test]
fn every_recorded_text_has_the_ids_of_the_original() {
    let recorded = recorded();
    assert!(recorded.len() >= 2500);
    let padded = |ids: &[u32]| [ids, &vec![0; CONTEXT - ids.len()]].concat();
    let others: Vec<&String> =
        recorded.iter().filter(|(text, ids)| tokenize(text) != padded(ids)).map(|(text, _)| text).collect();
    assert!(others.is_empty(), "{} of {}, such as {:?}", others.len(), recorded.len(), others[0]);
}

#[test]
fn a_text_is_cut_when_75_tokens_do_not_hold_it() {
    for (words, is_cut) in [(74, false), (75, false), (76, true), (9000, true)] {
        let tokens = Tokens::of(&"a ".repeat(words));
        assert_eq!((tokens.ids.len(), tokens.is_cut), (CONTEXT, is_cut), "{words}");
        assert_eq!(tokens.ids.iter().position(|&id| id == 49407), Some((words + 1).min(CONTEXT - 1)));
    }
}

#[test]
fn a_long_word_takes_no_quadratic_time() {
    let start = std::time::Instant::now();
    for word in ["ab", "é", "Ã©", "&amp;", "\u{301}", "(", "<"] {
        assert!(Tokens::of(&word.repeat(200_000)).is_cut, "{word}");
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// What `fair-moe tokens` prints of these arguments, and what it warns of.
fn printed(arguments: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fair-moe")).arg("tokens").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_command_line_prints_the_ids_on_one_line() {
    for text in ["A photo of glaucoma", "", "-5 dB", "-", "--5", "CafÃ©\n&amp;", "--", "--help"] {
        let hyphens = if text.starts_with("--") { &["--"][..] } else { &[] };
        let (line, warning) = printed(&[hyphens, &[text]].concat());
        let ids: Vec<u32> = line.trim_end_matches('\n').split(' ').map(|id| id.parse().unwrap()).collect();
        assert_eq!((ids, line.lines().count(), &*warning), (tokenize(text), 1, ""), "{text:?}");
    }
    let (line, _) = printed(&["A photo of glaucoma"]);
    assert!(line.starts_with("49406 320 1125 539 39171 19620 49407 0 0 "), "{line}");
}

#[test]
fn the_command_line_warns_of_a_text_that_is_cut() {
    let (line, warning) = printed(&[&"glaucoma ".repeat(100)]);
    assert!(line.ends_with(" 19620 49407\n") || line.ends_with(" 39171 49407\n"), "{line}");
    assert_eq!((warning.lines().count(), warning.contains("more than 77 tokens")), (1, true), "{warning}");
}
