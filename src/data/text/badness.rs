//! Whether a text looks as if it was decoded with a wrong character set: whether characters stand side by side that hardly ever do in
//! any language. The sequences are those that ftfy 6.3 knows (by Robyn Speer, Apache licence 2.0).

use regex::Regex;
use std::sync::LazyLock;

/// Kinds of characters, and how the sequences below call them.
const KINDS: [(&str, &str); 14] = [
    ("%controls", "\u{80}-\u{9f}"),
    ("%common", "\u{a0}\u{ad}·´–—―…’"),
    ("%bad", "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº"),
    ("%law", "¶§"),
    ("%currency", "¢£¥₧€"),
    ("%opening", "¡«¿©΄΅‘‚“„•‹\u{f8ff}"),
    ("%closing", "®»˝”›™"),
    ("%numeric", "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№"),
    ("%face", "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°"),
    ("%UPPER", "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ"),
    ("%lower", "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ"),
    ("%FOREIGN", "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я"),
    ("%foreign", "α-ωάέήίΰа-џ"),
    ("%box", "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓"),
];

/// What gives a wrong character set away.
const SEQUENCES: [&str; 37] = [
    "[%controls]",
    "[%bad%lower%UPPER%box%opening%closing%currency%numeric%law][%bad]",
    "[a-zA-Z][%foreign%FOREIGN][%bad]",
    "[%bad][%lower%UPPER%box%opening%closing%currency%numeric%law]",
    "[%lower%foreign%box%closing%currency%numeric][%UPPER]",
    "[%box%closing%currency%numeric][%lower]",
    "[%lower%box%closing][%currency]",
    "%space[%UPPER][%currency]",
    "[%UPPER%box][%numeric%law]",
    "[%lower%UPPER%box%currency%closing][%opening][%numeric]",
    "[%lower%UPPER%currency%numeric%box%law][%closing][%opening]",
    "[%currency%numeric%box][%opening]",
    "[a-z][%UPPER][%opening%currency]",
    "[%box][%face]",
    "[%lower%UPPER%currency%numeric%opening%closing%law][%box]",
    "[%box][%closing]",
    "[%lower%UPPER][%opening%closing]%word",
    "[Œœ][^A-Za-z]",
    "[%UPPER]°",
    // Pairs of Windows-1252.
    "[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»%opening%closing–—´]",
    "×[²³]",
    // Arabic.
    "[ØÙ][%common%currency%bad%numeric%openingŸŠ®°µ»][ØÙ][%common%currency%bad%numeric%openingŸŠ®°µ»]",
    // Scripts of South Asia.
    "à[²µ¹¼½¾]",
    // Macintosh.
    "√[±∂†≠®™´≤≥¥µø]",
    "≈[°¢]",
    "‚Ä[ìîïòôúùû†°¢π]",
    "‚[âó][àä°ê]",
    // Windows-1251: punctuation; letters; Windows-1252 within.
    "вЂ",
    "[ВГРС][%controls%bad%opening%closing%currency°µ][ВГРС]",
    "ГўВЂВ.[A-Za-z ]",
    // A lone à or Â, whose second byte is a space.
    "Ã[\u{a0}¡]",
    "[a-z]%space?[ÃÂ] ",
    "^[ÃÂ] ",
    "[a-z.,?!%closing]Â[ %opening%closing]",
    // Windows-1253: punctuation; letters.
    "β€[™\u{a0}Ά\u{ad}®°]",
    "[ΒΓΞΟ][%controls%bad%opening%closing%currency°][ΒΓΞΟ]",
    // Windows-1257.
    "ā€",
];

static BAD: LazyLock<Regex> = LazyLock::new(|| {
    // As Python has them.
    let classes = [("%space", r"[\s\x1c-\x1f]"), ("%word", r"[\p{L}\p{N}_]")];
    let sequences = SEQUENCES.join("|");
    let pattern = KINDS.iter().chain(&classes).fold(sequences, |pattern, (kind, set)| pattern.replace(kind, set));
    Regex::new(&pattern).expect("a valid pattern")
});

/// Whether there is any such sequence.
pub(super) fn is_bad(text: &str) -> bool {
    BAD.is_match(text)
}
