//! Files that were whole once.

use rand::RngExt;
use rand_pcg::Pcg64;
use std::io::{Cursor, Read, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// What a file is made of, so that some of its damage lies behind lengths and checksums that are right.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// Bytes, or text.
    Plain,
    /// A zip archive.
    Zip,
    /// The length of a text, the text, and bytes.
    Safetensors,
}

/// Numbers at the edge of something, as a file may spell them.
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "255",
    "1024",
    "65536",
    "1048576",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e999",
    "NaN",
    "0.5",
];

/// One of `seeds`, or parts of some, damaged.
pub fn damaged(format: Format, seeds: &[Vec<u8>], random: &mut Pcg64) -> Vec<u8> {
    let seed = &seeds[random.random_range(0..seeds.len())];
    let other = &seeds[random.random_range(0..seeds.len())];
    let inside = match format {
        _ if random.random_ratio(1, 4) => None,
        Format::Plain => None,
        Format::Zip => zip(seed, random),
        Format::Safetensors => safetensors(seed, random),
    };
    match inside {
        Some(mut whole) => {
            if random.random_ratio(1, 8) {
                damage(&mut whole, other, random);
            }
            whole
        }
        None => {
            let mut bytes = seed.clone();
            damage(&mut bytes, other, random);
            bytes
        }
    }
}

/// An archive of damaged entries, with checksums of what they are now.
fn zip(bytes: &[u8], random: &mut Pcg64) -> Option<Vec<u8>> {
    let mut old = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut new = ZipWriter::new(Cursor::new(vec![]));
    let chosen = random.random_range(0..old.len().max(1));
    for i in 0..old.len() {
        let mut entry = old.by_index(i).ok()?;
        let mut name = entry.name().ok()?.into_owned();
        let mut content = vec![];
        entry.read_to_end(&mut content).ok()?;
        if i == chosen || random.random_ratio(1, 10) {
            match random.random_range(0..40) {
                0 => name.push('x'),
                1 => continue,
                2 => content = vec![],
                // Unfolds to far more than it takes.
                3 => content.resize(content.len() + (24 << 20), 0),
                _ => damage(&mut content, bytes, random),
            }
        }
        let method = if random.random() { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let options = SimpleFileOptions::default().compression_method(method).large_file(random.random());
        new.start_file(name, options).ok()?;
        new.write_all(&content).ok()?;
    }
    Some(new.finish().ok()?.into_inner())
}

/// A damaged header whose length is right.
fn safetensors(bytes: &[u8], random: &mut Pcg64) -> Option<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let mut header = header.to_vec();
    damage(&mut header, bytes, random);
    let kept = if random.random_ratio(1, 4) { random.random_range(0..=data.len()) } else { data.len() };
    Some([&(header.len() as u64).to_le_bytes(), &header[..], &data[..kept]].concat())
}

/// One to four changes, of bytes or of what they mean.
fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut Pcg64) {
    for _ in 0..random.random_range(1..=4) {
        let place = random.random_range(0..=bytes.len());
        let end = (place + random.random_range(0..=64)).min(bytes.len());
        match random.random_range(0..10) {
            0 if place < bytes.len() => bytes[place] ^= 1 << random.random_range(0..8),
            1 if place < bytes.len() => bytes[place] = [0, 1, 0x7f, 0x80, 0xff, b'(', b'"', b','][random.random_range(0..8)],
            2 | 3 => integer(bytes, place, random),
            4 | 5 => number(bytes, place, random),
            6 => bytes.truncate(place),
            7 => drop(bytes.drain(place..end)),
            8 => {
                let block = bytes[place..end].repeat(1 << random.random_range(0..8));
                drop(bytes.splice(place..place, block));
            }
            _ => {
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..=256)).min(other.len());
                drop(bytes.splice(place..end, other[from..to].iter().copied()));
            }
        }
    }
}

/// An integer at the edge of its range, or a little beside what was there.
fn integer(bytes: &mut [u8], place: usize, random: &mut Pcg64) {
    let width = 1 << random.random_range(0..4);
    let Some(at) = bytes.get_mut(place..).and_then(|rest| rest.get_mut(..width)) else { return };
    let mut held = [0; 8];
    held[..width].copy_from_slice(at);
    let held = u64::from_le_bytes(held);
    let edges = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 31, 1 << 15, held.wrapping_add(1), held.wrapping_sub(1), held << 8];
    let mut edge = edges[random.random_range(0..edges.len())].to_le_bytes();
    let edge = &mut edge[..width];
    if random.random_ratio(1, 4) {
        edge.reverse();
    }
    at.copy_from_slice(edge);
}

/// A number spelled in digits, the next one from `place` on, made another.
fn number(bytes: &mut Vec<u8>, place: usize, random: &mut Pcg64) {
    let Some(start) = bytes[place..].iter().position(u8::is_ascii_digit).map(|i| place + i) else { return };
    let length = bytes[start..].iter().position(|b| !b.is_ascii_digit()).unwrap_or(bytes.len() - start);
    let number = NUMBERS[random.random_range(0..NUMBERS.len())];
    drop(bytes.splice(start..start + length, number.bytes()));
}
