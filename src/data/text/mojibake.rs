//! Texts in UTF-8 that were decoded as something else, decoded anew. What is tried, in what order and when, is ftfy's.

use super::badness::is_bad;
use super::pages::{PAGES, Page, characters, latin_1, windows_1252};
use regex::bytes::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// A text decoded anew until it looks right, or nothing helps.
pub(super) fn decode(mut text: String) -> String {
    while let Some(decoded) = decode_once(&text).filter(|decoded| *decoded != text) {
        text = decoded;
    }
    text
}

/// The control characters U+0080 to U+009F as what Windows-1252 has in their place, as browsers do it.
pub(super) fn without_c1_controls(text: &str) -> String {
    text.chars().map(|c| if is_c1_control(c) { windows_1252().decode(c as u8) } else { c }).collect()
}

fn is_c1_control(c: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&c)
}

fn decode_once(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let whole = PAGES.iter().find_map(|page| decode_utf8(&restore(page, page.encode(text)?)));
    let in_parts = || Some(decode_parts(text)).filter(|decoded| decoded != text);
    let as_windows = || {
        let bytes = latin_1().encode(text)?;
        let is_assigned = |byte: &u8| *byte < 128 || !is_c1_control(windows_1252().decode(*byte));
        bytes.iter().all(is_assigned).then(|| without_c1_controls(text)).filter(|decoded| decoded != text)
    };
    let without_controls = || text.contains(is_c1_control).then(|| without_c1_controls(text));
    whole.or_else(in_parts).or_else(as_windows).or_else(without_controls)
}

/// Bytes of UTF-8 in which 0xA0, a space that does not break, became a plain space.
static SPACED: LazyLock<Regex> = LazyLock::new(|| {
    bytes(&[
        r"[\xc2\xc3\xc5\xce\xd0\xd9]\x20",
        r"[\xe2\xe3]\x20[\x80-\x84\x86-\x9f\xa1-\xbf]",
        r"[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf]\x20",
        r"\xf0\x20[\x80-\xbf][\x80-\xbf]",
        r"\xf0[\x80-\xbf]\x20[\x80-\xbf]",
        r"\xf0[\x80-\xbf][\x80-\xbf]\x20",
    ])
});

/// Bytes of UTF-8 of which some were lost, at most one of them to a question mark.
static LOSSY: LazyLock<Regex> = LazyLock::new(|| {
    bytes(&[
        r"[\xc2-\xdf]\x1a",
        r"[\xc2-\xc3]\?",
        r"\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]",
        r"\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]",
        r"[\xe0-\xef][\x1a?][\x1a\x80-\xbf]",
        r"[\xe0-\xef][\x1a\x80-\xbf][\x1a?]",
        r"[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]",
        r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]",
        r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]",
        r"\x1a",
    ])
});

fn bytes(sequences: &[&str]) -> Regex {
    Regex::new(&format!("(?-u){}", sequences.join("|"))).expect("a valid pattern")
}

/// A text's bytes, as far as spaces and characters that were lost can be restored.
fn restore(page: &Page, mut bytes: Vec<u8>) -> Vec<u8> {
    // On a Macintosh a dash and a space would look like that.
    if !page.is_macintosh && SPACED.is_match(&bytes) {
        bytes = restore_a_grave(&bytes);
        let with_a0 =
            |found: &regex::bytes::Captures| found[0].iter().map(|&b| if b == b' ' { 0xa0 } else { b }).collect::<Vec<_>>();
        bytes = SPACED.replace_all(&bytes, with_a0).into_owned();
    }
    if page.is_sloppy && LOSSY.is_match(&bytes) {
        bytes = LOSSY.replace_all(&bytes, "\u{fffd}".as_bytes()).into_owned();
    }
    bytes
}

/// `à` as a word of its own (but for the beginnings of Portuguese words) keeps the space behind it.
fn restore_a_grave(bytes: &[u8]) -> Vec<u8> {
    let mut restored = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let word = after.strip_prefix(b" ").filter(|_| first == 0xc3);
        let stands_alone = |word: &&[u8]| ![&b" "[..], b"quele", b"quela", b"quilo", b"s "].iter().any(|w| word.starts_with(w));
        match word.filter(stands_alone) {
            Some(word) => {
                restored.extend(b"\xc3\xa0 ");
                rest = word;
            }
            None => {
                restored.push(first);
                rest = after;
            }
        }
    }
    restored
}

/// UTF-8, or its variants: Java's NUL of two bytes, and pairs of surrogates of three bytes each. At the very end a line break may
/// stand for the last byte of either, as ftfy has it.
fn decode_utf8(bytes: &[u8]) -> Option<String> {
    let (mut decoded, mut plain, mut i) = (String::with_capacity(bytes.len()), 0, 0);
    while i < bytes.len() {
        let variant = match &bytes[i..] {
            [0xc0, 0x80, ..] | [0xc0, b'\n'] => Some(('\0', 2)),
            [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d, rest @ ..]
                if matches!(d, 0x80..=0xbf) || (*d == b'\n' && rest.is_empty()) =>
            {
                let [a, b, c, d] = [(a, 0xf), (b, 0x3f), (c, 0xf), (d, 0x3f)].map(|(byte, bits)| u32::from(byte & bits));
                char::from_u32((a << 16) + (b << 10) + (c << 6) + d + 0x10000).map(|c| (c, 6))
            }
            _ => None,
        };
        match variant {
            Some((c, length)) => {
                decoded += str::from_utf8(&bytes[plain..i]).ok()?;
                decoded.push(c);
                i += length;
                plain = i;
            }
            None => i += 1,
        }
    }
    decoded += str::from_utf8(&bytes[plain..]).ok()?;
    Some(decoded)
}

/// What single bytes of UTF-8 look like when they are decoded as something else.
struct Clues {
    /// The first bytes of characters of two, three and four bytes; no character stands for two of them.
    first: [BTreeSet<char>; 3],
    /// The other bytes, and the space that one of them may have become.
    other: BTreeSet<char>,
    /// Those of them that do not stand beside such a character as themselves.
    other_only: BTreeSet<char>,
}

static CLUES: LazyLock<Clues> = LazyLock::new(|| {
    let first = [characters(0xc2..=0xdf), characters(0xe0..=0xef), characters([0xf0, 0xf3])];
    let mut other = characters(0x80..=0xbf);
    let other_only = other.iter().copied().filter(|&c| !"–—―‘’‚“”„•…".contains(c)).collect();
    other.insert(' ');
    Clues { first, other, other_only }
});

/// A text in which every part that looks like wrongly decoded UTF-8 is decoded by itself.
fn decode_parts(text: &str) -> String {
    let (mut decoded, mut rest, mut before) = (String::with_capacity(text.len()), text, None);
    while let Some(first) = rest.chars().next() {
        let is_within = before.is_some_and(|c| CLUES.other_only.contains(&c));
        let length = if is_within { 0 } else { part(rest) };
        let (taken, after) = rest.split_at(if length > 0 { length } else { first.len_utf8() });
        if taken.len() < text.len() && length > 0 && is_bad(taken) {
            decoded += &decode(taken.to_owned());
        } else {
            decoded += taken;
        }
        (before, rest) = (taken.chars().next_back(), after);
    }
    decoded
}

/// How many bytes at the beginning of a text look like wrongly decoded UTF-8.
fn part(text: &str) -> usize {
    let mut chars = text.chars();
    let mut length = 0;
    while let Some(others) = chars.next().and_then(|c| CLUES.first.iter().position(|first| first.contains(&c))) {
        let whole = (0..=others).all(|_| chars.next().is_some_and(|c| CLUES.other.contains(&c)));
        if !whole {
            break;
        }
        length = text.len() - chars.as_str().len();
    }
    length
}
