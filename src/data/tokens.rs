//! Texts as CLIP takes them: 77 token ids.

use instant_clip_tokenizer::{Token, Tokenizer};
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

/// How many ids a text becomes.
pub const CONTEXT: usize = 77;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::new);

/// CLIP's ids of a text: the start token, the text's own, the end token, and zeros up to [`CONTEXT`]. A text that is too long
/// loses its end, and keeps the end token.
///
/// HTML entities are resolved (twice, as CLIP does), accents composed, and white space and case do not matter; text that was
/// decoded with a wrong character set is not repaired.
pub fn tokenize(text: &str) -> Vec<u32> {
    let text: String = text.nfc().collect();
    let text = html_escape::decode_html_entities(&text);
    let text = html_escape::decode_html_entities(&text);
    // What lies beyond this cannot reach the ids, and long words take quadratic time.
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST).collect();
    let mut tokens = vec![TOKENIZER.start_of_text()];
    TOKENIZER.encode(&text, &mut tokens);
    tokens.truncate(CONTEXT - 1);
    tokens.push(TOKENIZER.end_of_text());
    let mut ids: Vec<u32> = tokens.into_iter().map(|token: Token| token.to_u16().into()).collect();
    ids.resize(CONTEXT, 0);
    ids
}

/// Characters; the longest entry of CLIP's vocabulary has fewer than 128.
const LONGEST: usize = CONTEXT * 128;
