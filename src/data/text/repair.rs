//! Glitches of texts repaired as ftfy 6.3 does it, whose repairs were in the texts that CLIP was trained on.

use super::{entities, mojibake};
use regex::Regex;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

/// Longer lines are repaired in pieces of this many characters.
const LONGEST: usize = 1_000_000;

/// The colours and movements of a terminal.
static TERMINAL_ESCAPE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\x1B\[[\d;]*[a-zA-Z]").expect("a valid pattern"));

/// A text without what went wrong on its way, line by line.
pub(super) fn repair(text: &str) -> String {
    let (mut repaired, mut is_html) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(LONGEST).map_or(rest.len(), |(i, _)| i);
            let (piece, after) = rest.split_at(end);
            // From the first tag on, references are HTML's own.
            is_html |= piece.contains('<');
            repaired += &repair_piece(piece.to_owned(), is_html);
            rest = after;
        }
    }
    repaired
}

/// One repair can lay bare what needs another.
fn repair_piece(mut text: String, is_html: bool) -> String {
    loop {
        let unescaped = if is_html { text.clone() } else { entities::unescape_clear(&text).into_owned() };
        let decoded = mojibake::without_c1_controls(&mojibake::decode(unescaped));
        let plain: String = decoded.chars().map(plain).collect();
        let plain = plain.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        let plain = TERMINAL_ESCAPE.replace_all(&plain, "");
        let repaired: String = plain.chars().filter(|&c| !is_control(c)).nfc().collect();
        if repaired == text {
            return repaired;
        }
        text = repaired;
    }
}

/// A character without typography: ligatures of Latin letters taken apart, full width made narrow and half width wide, quotation
/// marks straight.
fn plain(c: char) -> String {
    let apart = match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        '\u{3000}' => " ",
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\u{ff01}'..='\u{ffef}' => return c.nfkc().collect(),
        _ => return c.into(),
    };
    apart.into()
}

/// Characters that control nothing that is left of a text. Those that shape it, and that are white space, stay.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}
