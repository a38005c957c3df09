//! Texts as CLIP takes them: 77 token ids, exactly those of OpenAI's own tokenizer.
//!
//! ```text
//! text -> repair -> entities, twice -> lower case -> words -> byte pairs -> ids
//! ```

mod badness;
mod bpe;
mod entities;
mod mojibake;
mod pages;
mod repair;

use regex::Regex;
use std::sync::LazyLock;

/// How many ids a text becomes.
pub const CONTEXT: usize = 77;

/// The ids of the start token and of the end token.
const START: u32 = 49406;
const END: u32 = 49407;

/// CLIP's words: runs of letters, single digits, runs of other signs, English endings. The two tokens may be written out. U+0345,
/// the iota below, is none of these where the original, blind to case, looks for it.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"(?i:<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+";
    Regex::new(words).expect("a valid pattern")
});

/// A text in CLIP's vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// [`CONTEXT`] ids: the start token, the text's own, the end token, and zeros.
    pub ids: Vec<u32>,
    /// Whether the text was too long and lost its end. The end token stays.
    pub is_cut: bool,
}

impl Tokens {
    /// Those of a text: it is repaired as by ftfy 6.3 (text that was decoded with a wrong character set, ligatures, full width
    /// letters, curly quotes, control characters, composed accents), HTML entities are resolved twice, and white space and case do
    /// not matter. Any text has some.
    pub fn of(text: &str) -> Self {
        let text = repair::repair(text);
        let text = entities::unescape(&entities::unescape(&text)).to_lowercase();
        let mut ids = vec![START];
        for word in WORDS.find_iter(&text) {
            match word.as_str() {
                "<|startoftext|>" => ids.push(START),
                "<|endoftext|>" => ids.push(END),
                word => ids.extend(bpe::encode(word).into_iter().map(u32::from)),
            }
            if ids.len() >= CONTEXT {
                break;
            }
        }
        let is_cut = ids.len() >= CONTEXT;
        ids.truncate(CONTEXT - 1);
        ids.push(END);
        ids.resize(CONTEXT, 0);
        Self { ids, is_cut }
    }
}

/// The ids of [`Tokens::of`] a text.
pub fn tokenize(text: &str) -> Vec<u32> {
    Tokens::of(text).ids
}
