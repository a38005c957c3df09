//! HTML's character references.

use super::pages::windows_1252;
use entities::ENTITIES;
use regex::{Captures, Regex};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What each name between `&` and, mostly, `;` stands for. A hundred old names are there without the `;` too.
static NAMED: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| ENTITIES.iter().map(|e| (&e.entity[1..], e.characters)).collect());

/// The names in lower case once more in upper case, where HTML itself knows nothing by that name.
static SHOUTED: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let shout = |(name, characters): (&&str, &&str)| {
        let shouted = name.to_ascii_uppercase();
        let is_new = name.ends_with(';') && name.to_ascii_lowercase() == **name && resolve_name(&shouted).is_none();
        is_new.then(|| (shouted, characters.to_uppercase()))
    };
    NAMED.iter().filter_map(shout).collect()
});

static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"&(?:#([0-9]+);?|#[xX]([0-9a-fA-F]+);?|([^\t\n\x0C <&#;]{1,32};?))").expect("a valid pattern"));

static CLEAR_REFERENCE: LazyLock<Regex> = LazyLock::new(|| Regex::new("&(#?[0-9A-Za-z]{1,24};)").expect("a valid pattern"));

/// Every reference resolved as browsers and Python's `html.unescape` do it: the `;` may be missing, and of a name that is none
/// the longest beginning that is one counts.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    REFERENCE.replace_all(text, |found: &Captures| match (found.get(1), found.get(2), found.get(3)) {
        (Some(digits), _, _) => resolve_number(digits.as_str(), 10),
        (_, Some(digits), _) => resolve_number(digits.as_str(), 16),
        (_, _, Some(name)) => resolve_name(name.as_str()).unwrap_or_else(|| found[0].to_owned()),
        _ => found[0].to_owned(),
    })
}

/// Only the references that nobody would write by chance resolved: those with a `;`. Names may be in upper case throughout.
pub(super) fn unescape_clear(text: &str) -> Cow<'_, str> {
    CLEAR_REFERENCE.replace_all(text, |found: &Captures| {
        let (whole, name) = (&found[0], &found[1]);
        if name.starts_with('#') {
            let resolved = unescape(whole);
            return if resolved.contains(';') { whole.to_owned() } else { resolved.into_owned() };
        }
        let named = NAMED.get(name).map(|&characters| characters.to_owned());
        named.or_else(|| SHOUTED.get(name).cloned()).unwrap_or_else(|| whole.to_owned())
    })
}

fn resolve_number(digits: &str, radix: u32) -> String {
    let number = u32::from_str_radix(digits, radix).unwrap_or(u32::MAX);
    match number {
        0 => '\u{fffd}'.into(),
        0x80..=0x9f => windows_1252().decode(number as u8).into(),
        1..=8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        ..=0x10_ffff if number & 0xfffe == 0xfffe => String::new(),
        _ => char::from_u32(number).unwrap_or('\u{fffd}').into(),
    }
}

/// What a name stands for, or its longest beginning of at least two letters that stands for something, and the rest.
fn resolve_name(name: &str) -> Option<String> {
    let ends = name.char_indices().map(|(i, _)| i).skip(2).chain([name.len()]);
    let ends: Vec<usize> = ends.collect();
    ends.into_iter().rev().find_map(|end| NAMED.get(&name[..end]).map(|characters| format!("{characters}{}", &name[end..])))
}
