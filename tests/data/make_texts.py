#!/usr/bin/env python3
"""Records texts with CLIP's ids of them, as OpenAI's own tokenizer gives them, in texts.zip.

    pip install ftfy==6.3.1 regex faker && pip install --no-deps openai-clip
    python make_texts.py                        writes texts.zip beside this file
    python make_texts.py --seed 7 --texts 200000 --out F.zip        another and larger recording, of the same kind

texts.zip holds texts.json: a list of [text, its ids from the start token to the end token]. No text has characters that are younger
than this Python's Unicode: ftfy, Python's `lower` and the module `regex` each know a Unicode of their own.
"""

import argparse
import html
import html.entities
import importlib.util
import json
import random
import unicodedata
import zipfile
from pathlib import Path

import ftfy.bad_codecs  # noqa: F401, registers the sloppy character sets
import regex
from faker import Faker

LOCALES = """en_US de_DE fr_FR es_ES pt_PT pl_PL cs_CZ hu_HU ru_RU uk_UA bg_BG el_GR tr_TR lt_LT lv_LV ar_AA he_IL fa_IR hi_IN th_TH
zh_CN ja_JP ko_KR vi_VN ro_RO hr_HR ta_IN ka_GE hy_AM bn_BD""".split()
PAGES = """latin-1 sloppy-windows-1252 sloppy-windows-1251 sloppy-windows-1250 sloppy-windows-1253 sloppy-windows-1254
sloppy-windows-1257 iso-8859-2 macroman cp437 windows-1252 latin-1 sloppy-windows-1252 sloppy-windows-1252""".split()
# What notes hold, and what each repair is for.
PHRASES = [
    "The pt's IOP is 21/18 mmHg OD/OS", "C/D 0.7 & thinning", "Follow-up 6mo.", "HVF 24-2", "≥21", "½", "naïve", "—stable", "±2 dB",
    "“suspect”", "‘quoted’", "don't", "it's we're I've I'm they'll he'd", "µm 12°", "Ménière’s", "à la carte", "5 × 10³", "…", "•", "™",
    "<b>bold</b>", "\x1b[31mred\x1b[0m", "\ufeff", "\u2028", "\u2029", "\x85", "\r\n", "\r", "\u3000", "ＬＯＵＤ", "ﾊﾝｶｸ", "ﬁne ﬂow", "ﬃ", "ŉ",
    "ǆ", "Ĳ", "ſt", "'ſ", "İstanbul", "ΣΑΣ ΣΟΦΟΣ", "ß ẞ", "e\u0301", "\u1112\u1161\u11ab", "👁️\u200d🗨️", "👩🏽\u200d⚕️", "🇩🇪", "\u0345", "K",
    "<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "a<|endoftext|>b", "!!<|endoftext|>", "\x00", "\x1a", "\ufffd", "?", "-5 dB",
    "--help", " ", "   ", "\t", "\n", "\xa0", " Ã la", "Â ", "à", "º", "①", "Ⅷ", "٣", "१", "²", "\xad", "œuvre", "ГўВЂВњ", "вЂ™", "â€™", "â€œ",
    "â€�", "Ã©", "â‚¬", "√©", "‚Äô", "ā€",
]  # fmt: skip
RANGES = [(0, 0x250), (0, 0x250), (0x80, 0xFF), (0x80, 0xFF), (0x370, 0x52F), (0x2000, 0x2600), (0xF900, 0xFFFF), (0, 0xFFFF), (0, 0x10FFFF)]


def original():
    """OpenAI's tokenizer, without the rest of its package, which needs torchvision."""
    package = Path(importlib.util.find_spec("clip").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("simple_tokenizer", package / "simple_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def ids(tokenizer, text):
    own = tokenizer.encode(text)[:75]
    return [49406, *own, 49407]


def is_young(text):
    whole = text + html.unescape(html.unescape(ftfy.fix_text(text)))
    return any(unicodedata.category(c) == "Cn" and not regex.match(r"\p{Cn}", c) for c in whole)


def characters(text):
    """Without surrogates, which no UTF-8 holds."""
    return "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)


class Texts:
    def __init__(self, seed):
        self.random = random.Random(seed)
        Faker.seed(seed)
        self.fakers = [Faker(locale) for locale in LOCALES]

    def chance(self, share):
        return self.random.random() < share

    def entity(self):
        r = self.random
        name = r.choice(list(html.entities.html5))
        number = r.choice([r.randrange(0x110000), r.randrange(0x300), r.randrange(0x80, 0xA0), 0xD800 + r.randrange(0x900), 10**12])
        return r.choice([
            f"&{name}", f"&{name.rstrip(';')}{r.choice(['', 'x', ' ', '1'])}", f"&{name.upper()}", f"&#{number}{r.choice(['', ';', ';;'])}",
            f"&#{r.choice('xX')}{number:x}{r.choice([';', '', 'g'])}", html.escape(html.escape(r.choice(PHRASES))),
            "&" + "".join(r.choices("ampltgqu;#x019 &", k=r.randrange(1, 8))),
        ])  # fmt: skip

    def noise(self):
        low, high = self.random.choice(RANGES)
        return characters(map(chr, (self.random.randint(low, high) for _ in range(self.random.randrange(1, 12)))))

    def words(self):
        fake = self.random.choice(self.fakers)
        return self.random.choice([fake.name, fake.city, lambda: fake.sentence(nb_words=self.random.randrange(2, 9)), fake.word])()

    def bytes(self, text):
        """UTF-8, or now and then Java's, damaged now and then."""
        data = text.encode()
        if self.chance(0.12):
            units = text.encode("utf-16-be")
            units = "".join(chr(units[i] << 8 | units[i + 1]) for i in range(0, len(units), 2))
            data = units.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")
        if data and self.chance(0.08):
            data = bytearray(data)
            data[self.random.randrange(len(data))] = self.random.choice([0x1A, 0x3F, 0x20, 0xA0, 0xED, 0xC0, self.random.randrange(256)])
        return bytes(data)

    def mangled(self, text):
        """Decoded wrongly, up to three times, and what programs do to such a text then."""
        for _ in range(self.random.choice([1, 1, 1, 1, 2, 2, 3])):
            text = self.bytes(text).decode(self.random.choice(PAGES), errors=self.random.choice(["replace", "ignore"]))
            if self.chance(0.15):
                text = text.replace("\xa0", " ")
            if self.chance(0.06):
                text = self.random.choice([text.upper(), text.lower()])
            if self.chance(0.05):
                text = "".join("\ufffd" if ord(c) > 0x7F and self.chance(0.2) else c for c in text)
            if self.chance(0.05):
                text = unicodedata.normalize(self.random.choice(["NFD", "NFKC", "NFC"]), text)
        return text

    def part(self):
        kind = self.random.choices([self.words, lambda: self.random.choice(PHRASES), self.entity, self.noise], [9, 6, 2, 3])[0]
        part = kind()
        return self.mangled(part) if self.chance(0.4) else part

    def text(self):
        parts = [self.part() for _ in range(self.random.choice([1, 1, 2, 3, 4, 8]))]
        text = self.random.choice([" ", "", " ", "\n", ", "]).join(parts)
        if self.chance(0.2) and len(text) < 300:
            text = self.mangled(text)
        if self.chance(0.1):
            text += "\n"
        if self.chance(0.05):
            text = text.upper()
        return characters(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("texts.zip"))
    args = parser.parse_args()
    tokenizer, texts, recorded = original(), Texts(args.seed), []
    # Longer ones are cut; the last has no space to cut at.
    special = ["", " \n", *PHRASES, "glaucoma " * 1200, "&amp;" * 2500, "Ã©" * 5000, "\U0001f441" * 2500, "ab" * 5000]
    while len(recorded) < args.texts:
        text = special.pop() if special else texts.text()
        if not is_young(text):
            recorded.append([text, ids(tokenizer, text)])
    entry = zipfile.ZipInfo("texts.json")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(args.out, "w") as archive:
        archive.writestr(entry, json.dumps(recorded, ensure_ascii=False, separators=(",", ":")), compresslevel=9)


main()
