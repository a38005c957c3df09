//! Files of weights that are damaged, or made to harm: each is an error in a sentence, and nothing of it is executed.
#![cfg(feature = "model")]

use fair_moe::model::{Checkpoint, ClipConfig, TowerConfig};
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Opens these bytes as a file, and reads all that it holds.
fn read(bytes: &[u8]) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let checkpoint = Checkpoint::open(file.path()).map_err(|e| e.to_string())?;
    let _ = checkpoint.config();
    checkpoint.names().try_for_each(|name| checkpoint.tensor(name).map(drop)).map_err(|e| e.to_string())
}

/// An archive as torch.save writes it, around this pickle.
fn archive(pickle: &[u8], records: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in [("data.pkl", pickle)].iter().chain(records) {
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn pickled(pickle: &[u8]) -> Result<(), String> {
    read(&archive(pickle, &[("data/0", &[0; 16])], CompressionMethod::Stored))
}

fn assert_refused(result: Result<(), String>, why: &str) {
    let error = result.unwrap_err();
    assert!(error.contains(why), "{error}");
}

/// A state dictionary with one tensor of this description: storage elements, offset, shape and strides, each below 256.
fn tensor(elements: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut p = b"\x80\x02}X\x0e\x00\x00\x00vision_model.xctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    p.extend(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    p.extend([b'K', elements, b't', b'Q', b'K', offset]);
    for sizes in [shape, strides] {
        p.push(b'(');
        sizes.iter().for_each(|&n| p.extend([b'K', n]));
        p.push(b't');
    }
    p.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    p
}

#[test]
fn a_model_of_more_layers_or_numbers_than_can_be_is_refused_before_anything_is_made() {
    let tiny = ClipConfig::tiny(20, 30);
    let deep = |layers| ClipConfig { text: TowerConfig { layers, ..tiny.text }, ..tiny };
    deep(1024).check().unwrap();
    let error = deep(1025).check().unwrap_err().to_string();
    assert!(error.contains("a tower's layers must be from 1 to 1024"), "{error}");
    let wide = TowerConfig { width: 1 << 20, ..tiny.vision };
    ClipConfig { image: 1 << 20, patch: 1 << 20, vision: wide, ..tiny }.check().unwrap_err();
    ClipConfig { image: 1 << 20, patch: 1, vision: wide, ..tiny }.check().unwrap_err();
}

#[test]
fn functions_are_never_called() {
    assert_refused(pickled(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00exit\x85R."), "it asks for posix.system");
    assert_refused(pickled(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04exit\x85R."), "it asks for os.system");
    assert_refused(pickled(b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R."), "it asks for builtins.eval");
    assert_refused(pickled(b"\x80\x02c__torch__.clip\nCLIP\n)\x81}b."), "it asks for __torch__.clip.CLIP");
    assert_refused(pickled(b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R."), "other arguments than PyTorch gives");
    assert_refused(pickled(b"\x80\x02K\x01K\x02\x85R."), "it calls what is no function");
    // A name may hold what a terminal obeys.
    assert_refused(pickled(b"\x80\x02cos\x1b[2J\nsystem\n."), "it asks for os\\u{1b}[2J.system");
}

#[test]
fn pickles_that_contain_themselves_nest_or_promise_too_much_are_harmless() {
    assert_refused(pickled(b"\x80\x02}q\x00h\x00h\x00s."), "it holds no tensors");
    assert_refused(pickled(b"\x80\x02]q\x00h\x00a."), "neither a state dictionary nor a TorchScript module");
    let nested = [&b"\x80\x02"[..], &b"]".repeat(500_000), &b"a".repeat(499_999), b"."].concat();
    assert_refused(pickled(&nested), "neither a state dictionary nor a TorchScript module");
    assert_refused(pickled(&[&b"\x80\x02"[..], &b"(".repeat(2_000_000)].concat()), "takes more than");
    assert_refused(pickled(b"\x80\x02\x8b\xff\xff\xff\x7f\x01."), "ends where 2147483647 more bytes must follow");
    assert_refused(pickled(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), "ends where");
    assert_refused(pickled(b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x01."), "neither a state dictionary");
    assert_refused(pickled(b"\x80\x02h\x07."), "refers to number 7, which it never made");
    assert_refused(pickled(b"\x80\x02(00."), "takes more from the stack than it put there");
    assert_refused(pickled(b"\x80\x02}(NNNu."), "a key without a value");
    assert_refused(pickled(b"\x80\x02}"), "ends where 1 more bytes must follow");
    assert_refused(pickled(b"\x80\x02i."), "the instruction 0x69");
    assert_refused(pickled(b""), "ends where 1 more bytes must follow");
}

/// A module whose attributes are itself, many times over.
#[test]
fn modules_that_contain_themselves_are_refused() {
    let mut pickle = b"\x80\x02c__torch__.A\nA\n)\x81q\x00}(".to_vec();
    (0..50u8).for_each(|n| pickle.extend([b'X', 1, 0, 0, 0, b'0' + n, b'h', 0]));
    pickle.extend(b"ub.");
    let script = archive(&pickle, &[("constants.pkl", b"\x80\x02).")], CompressionMethod::Stored);
    assert_refused(read(&script), "contain each other without end");
}

#[test]
fn a_tensor_lies_within_its_record() {
    let with = |pickle: &[u8]| pickled(pickle);
    with(&tensor(4, 0, &[2, 2], &[2, 1])).unwrap();
    with(&tensor(4, 1, &[3], &[1])).unwrap();
    with(&tensor(4, 3, &[2, 2], &[0, 0])).unwrap();
    assert_refused(with(&tensor(4, 2, &[3], &[1])), "reaches beyond its 4 numbers");
    assert_refused(with(&tensor(4, 0, &[2, 2], &[3, 1])), "reaches beyond its 4 numbers");
    assert_refused(with(&tensor(5, 0, &[5], &[1])), "its 5 numbers of 4 bytes are in a record of 16 bytes");
    assert_refused(with(&tensor(4, 0, &[2, 2], &[1])), "cannot be");
    assert_refused(with(&tensor(4, 0, &[255; 9], &[0; 9])), "described by something else than sizes");
    assert_refused(with(&tensor(4, 0, &[255; 8], &[0; 8])), "more than 4 times as large as the file");
    assert_refused(with(&tensor(4, 0, &[255, 255], &[0, 0])), "more than 4 times as large as the file");
    assert_refused(
        read(&archive(&tensor(4, 0, &[4], &[1]), &[], CompressionMethod::Stored)),
        "its record archive/data/0 is missing",
    );
}

#[test]
fn records_are_not_unfolded() {
    let bomb = vec![0; 64 << 20];
    let deflated = archive(&tensor(4, 0, &[4], &[1]), &[("data/0", &bomb)], CompressionMethod::Deflated);
    assert!(deflated.len() < 1 << 20);
    assert_refused(read(&deflated), "compressed or encrypted");
    let pickle = [&b"\x80\x02"[..], &vec![b'N'; 65 << 20]].concat();
    assert_refused(read(&archive(&pickle, &[], CompressionMethod::Deflated)), "compressed or encrypted");
}

#[test]
fn foreign_orders_of_bytes_and_other_formats_are_named() {
    let with = |order: &[u8]| {
        read(&archive(&tensor(4, 0, &[4], &[1]), &[("data/0", &[0; 16]), ("byteorder", order)], CompressionMethod::Stored))
    };
    with(b"little").unwrap();
    assert_refused(with(b"big"), "big-endian machine");
    assert_refused(with(b"middle"), "must be stored little-endian");
    assert_refused(read(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), "PyTorch before 1.6");
    assert_refused(read(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS");
    assert_refused(read(b"<!DOCTYPE html><html>"), "neither a safetensors file nor a zip archive");
    assert_refused(read(b""), "neither a safetensors file nor a zip archive");
    assert_refused(read(&archive(b"", &[], CompressionMethod::Stored)[..60]), "no whole zip archive");
    let npz = {
        let mut zip = ZipWriter::new(Cursor::new(vec![]));
        zip.start_file("a.npy", SimpleFileOptions::default()).unwrap();
        zip.finish().unwrap().into_inner()
    };
    assert_refused(read(&npz), "it holds no data.pkl");
    assert_refused(Checkpoint::open(Path::new("/")).map(drop).map_err(|e| e.to_string()), "this is no file");
}

#[test]
fn headers_of_safetensors_are_checked_against_the_file() {
    let file = |size: u64, header: &str, data: usize| [&size.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
    let with = |header: &str, data| read(&file(header.len() as u64, header, data));
    with(r#"{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}"#, 16).unwrap();
    assert_refused(read(&file(1 << 62, "{}", 0)), "its header has 4611686018427387904 bytes, but the file only 10");
    assert_refused(
        with(r#"{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}"#, 15),
        "promises 16 bytes of tensors, but 15 follow",
    );
    let huge = r#"{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}"#;
    for header in ["{", "{}{}", "[", r#"{"a": 1}"#, huge, &"{\"a\":".repeat(10_000)] {
        assert_refused(with(header, 0), "safetensors file");
    }
    with("{}", 0).unwrap();
}

/// A small file cut off anywhere, or with any byte changed: an error or other numbers, and no panic.
#[test]
fn damaged_files_are_errors_or_other_numbers() {
    let bytes =
        archive(&tensor(4, 1, &[1, 3], &[3, 1]), &[("data/0", &[0; 16]), ("byteorder", b"little")], CompressionMethod::Stored);
    read(&bytes).unwrap();
    for length in 0..bytes.len() {
        read(&bytes[..length]).unwrap_err();
    }
    for place in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= change;
            let _ = read(&damaged);
        }
    }
}
