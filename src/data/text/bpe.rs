//! Byte pair encoding: the bytes of a word are merged two by two, those that were merged first when the vocabulary was made first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::LazyLock;

/// CLIP's merges in their order (`bpe_simple_vocab_16e6.txt`, copyright 2021 OpenAI, MIT licence): the two tokens of each, little-endian u16. The
/// first of them makes the token 512.
static MERGES: &[u8] = include_bytes!("merges.bin");

/// The tokens of the 256 bytes, each once within a word and once, 256 further, at its end.
const BYTES: u16 = 256;

/// What two neighbours merge to. A smaller token comes first.
static MERGED: LazyLock<HashMap<(u16, u16), u16>> = LazyLock::new(|| {
    let (merges, _) = MERGES.as_chunks();
    let pair = |&[a, b, c, d]: &[u8; 4]| (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    merges.iter().map(pair).zip(2 * BYTES..).collect()
});

/// The token of each byte: visible characters of Latin-1 come first.
static TOKENS: LazyLock<[u16; 256]> = LazyLock::new(|| {
    let is_visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    let (visible, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(is_visible);
    let mut tokens = [0; 256];
    for (byte, token) in visible.into_iter().chain(others).zip(0..) {
        tokens[usize::from(byte)] = token;
    }
    tokens
});

/// The tokens of a word, which is not empty.
///
/// What merges next is found in a heap, so that a long word takes no quadratic time. A merged token's own merges are all later than
/// its own, so that none is missed.
pub(super) fn encode(word: &str) -> Vec<u16> {
    let mut tokens: Vec<Option<u16>> = word.bytes().map(|byte| Some(TOKENS[usize::from(byte)])).collect();
    if let Some(Some(last)) = tokens.last_mut() {
        *last += BYTES;
    }
    let end = tokens.len();
    let mut next: Vec<usize> = (1..=end).collect();
    let mut previous: Vec<Option<usize>> = (0..end).map(|i| i.checked_sub(1)).collect();
    let merged = |tokens: &[Option<u16>], next: &[usize], i: usize| {
        let (left, right) = (tokens[i]?, (*tokens.get(*next.get(i)?)?)?);
        MERGED.get(&(left, right)).copied()
    };
    let mut heap: BinaryHeap<_> = (0..end).filter_map(|i| Some(Reverse((merged(&tokens, &next, i)?, i)))).collect();
    while let Some(Reverse((token, i))) = heap.pop() {
        if merged(&tokens, &next, i) != Some(token) {
            continue;
        }
        let (gone, after) = (next[i], next[next[i]]);
        (tokens[i], tokens[gone], next[i]) = (Some(token), None, after);
        if let Some(previous) = previous.get_mut(after) {
            *previous = Some(i);
        }
        let changed = [previous[i], Some(i)].into_iter().flatten();
        heap.extend(changed.filter_map(|i| Some(Reverse((merged(&tokens, &next, i)?, i)))));
    }
    tokens.into_iter().flatten().collect()
}
