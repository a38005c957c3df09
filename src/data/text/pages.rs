//! The code pages that texts are most often decoded with by mistake.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

/// A character set of one byte each, of which the first 128 are ASCII.
pub(super) struct Page {
    /// What the bytes from 0x80 on stand for.
    high: [char; 128],
    bytes: HashMap<char, u8>,
    /// Byte 0x1A stands for U+FFFD: a character that was lost. So it is for the pages of Windows, each of whose unassigned bytes
    /// stands for itself.
    pub(super) is_sloppy: bool,
    pub(super) is_macintosh: bool,
}

/// All of them, in the order in which they are tried; the first is Latin-1, and the second Windows-1252.
pub(super) static PAGES: LazyLock<[Page; 10]> = LazyLock::new(|| {
    let windows = |high| Page::new(high, true);
    let [mut macintosh, others @ ..] = [MACINTOSH, "", ISO_8859_2, DOS_437].map(|high| Page::new(high, false));
    macintosh.is_macintosh = true;
    let [latin_1, iso_8859_2, dos] = others;
    let [a, b, c, d, e, f] = [WINDOWS_1252, WINDOWS_1251, WINDOWS_1250, WINDOWS_1253, WINDOWS_1254, WINDOWS_1257].map(windows);
    [latin_1, a, b, c, d, e, f, iso_8859_2, macintosh, dos]
});

pub(super) fn latin_1() -> &'static Page {
    &PAGES[0]
}

pub(super) fn windows_1252() -> &'static Page {
    &PAGES[1]
}

/// The characters that these bytes stand for in Latin-1 and the pages of Windows.
pub(super) fn characters(bytes: impl IntoIterator<Item = u8>) -> BTreeSet<char> {
    bytes.into_iter().flat_map(|byte| PAGES[..7].iter().map(move |page| page.decode(byte))).collect()
}

impl Page {
    fn new(assigned: &str, is_sloppy: bool) -> Self {
        let mut high: [char; 128] = std::array::from_fn(|i| char::from(i as u8 + 128));
        for (place, c) in high.iter_mut().zip(assigned.chars()).filter(|(_, c)| *c != ' ') {
            *place = c;
        }
        let mut bytes: HashMap<char, u8> = high.iter().zip(128..=255).map(|(&c, byte)| (c, byte)).collect();
        if is_sloppy {
            bytes.insert('\u{fffd}', LOST);
        }
        Self { high, bytes, is_sloppy, is_macintosh: false }
    }

    /// The bytes that are decoded to this text. None where it has a character that this page lacks.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |c: char| match u8::try_from(c) {
            Ok(LOST) if self.is_sloppy => None,
            Ok(ascii @ ..128) => Some(ascii),
            _ => self.bytes.get(&c).copied(),
        };
        text.chars().map(byte).collect()
    }

    /// What a byte stands for.
    pub(super) fn decode(&self, byte: u8) -> char {
        byte.checked_sub(128).map_or(char::from(byte), |i| self.high[usize::from(i)])
    }
}

/// The byte of a character that was lost.
const LOST: u8 = 0x1a;

// From byte 0x80 on. A space, or nothing at the end: as in Latin-1.
const WINDOWS_1250: &str = "€ ‚ „…†‡ ‰Š‹ŚŤŽŹ ‘’“”•–— ™š›śťžź ˇ˘Ł Ą    Ş    Ż  ˛ł     ąş Ľ˝ľżŔ  Ă ĹĆ Č Ę Ě  ĎĐŃŇ  Ő  ŘŮ Ű  Ţ ŕ  ă ĺć č ę ě  ďđńň  ő  řů ű  ţ˙";
const WINDOWS_1251: &str = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–— ™љ›њќћџ ЎўЈ Ґ  Ё Є    Ї  Ііґ   ё№є јЅѕїАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя";
const WINDOWS_1252: &str = "€ ‚ƒ„…†‡ˆ‰Š‹Œ Ž  ‘’“”•–—˜™š›œ žŸ";
const WINDOWS_1253: &str = "€ ‚ƒ„…†‡ ‰ ‹     ‘’“”•–— ™ ›     ΅Ά            ―    ΄   ΈΉΊ Ό ΎΏΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ ΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ";
const WINDOWS_1254: &str = "€ ‚ƒ„…†‡ˆ‰Š‹Œ    ‘’“”•–—˜™š›œ  Ÿ                                                Ğ            İŞ                 ğ            ış";
const WINDOWS_1257: &str = "€ ‚ „…†‡ ‰ ‹ ¨ˇ¸ ‘’“”•–— ™ › ¯˛         Ø Ŗ    Æ        ø ŗ    æĄĮĀĆ  ĘĒČ ŹĖĢĶĪĻŠŃŅ Ō   ŲŁŚŪ ŻŽ ąįāć  ęēč źėģķīļšńņ ō   ųłśū żž˙";
const ISO_8859_2: &str = "                                 Ą˘Ł ĽŚ  ŠŞŤŹ ŽŻ ą˛ł ľśˇ šşťź˝žżŔ  Ă ĹĆ Č Ę Ě  ĎĐŃŇ  Ő  ŘŮ Ű  Ţ ŕ  ă ĺć č ę ě  ďđńň  ő  řů ű  ţ˙";
const MACINTOSH: &str = "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const DOS_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
