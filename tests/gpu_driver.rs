//! A GPU and its emulation are the same to the host code: memory, streams, launches, captures and events, and what they refuse.
#![cfg(any(feature = "cuda", feature = "emulate"))]
// SAFETY: launches and fills of buffers that are as long as the sizes beside them say; the stream, graphs and events stand.
#![allow(unsafe_code)]

mod support;

#[cfg(feature = "cuda")]
use fair_moe::Error;
use fair_moe::gpu::args::Combine;
use fair_moe::gpu::driver::{Driver, Shape, launch};
use fair_moe::gpu::kernels::find;
use fair_moe::gpu::session::Session;
use std::sync::Arc;

#[track_caller]
fn refused<T: std::fmt::Debug>(result: fair_moe::Result<T>, word: &str) {
    let why = result.unwrap_err().to_string();
    assert!(why.contains(word) && why.lines().count() == 1, "{word:?} is not in {why:?}");
}

/// Row n of the result is pair 2 - n, of three rows of 5.
fn behaves(driver: Arc<dyn Driver>, no_room: &str) {
    let facts = driver.facts();
    assert!(facts.multiprocessors > 0 && facts.shared_bytes >= 99 << 10, "{facts:?}");
    let session = Session::new(&driver).unwrap();
    let stream = session.queue().stream;
    let values: Vec<f32> = (0..15).map(|i| i as f32).collect();
    let reversed: Vec<f32> = [2, 1, 0].iter().flat_map(|row| values[row * 5..row * 5 + 5].to_vec()).collect();
    let pairs = session.upload(&values).unwrap();
    let row_pairs = session.upload(&[2i32, 1, 0]).unwrap();
    let out = session.empty::<f32>(15).unwrap();
    assert_eq!(pairs.to_vec().unwrap(), values);
    let clear = || {
        // SAFETY: 15 floats are there.
        unsafe { driver.fill(stream, out.pointer(), 0, 60) }.unwrap();
        assert_eq!(out.to_vec().unwrap(), [0.0; 15]);
    };

    let args = Combine {
        pairs: pairs.pointer(),
        row_pairs: row_pairs.pointer(),
        out: out.pointer(),
        out_stride: 5,
        rows: 3,
        width: 5,
        top_k: 1,
        ..Combine::default()
    };
    // SAFETY: every address holds as much as the sizes beside it say.
    let run = |name: &str, shape: Shape| unsafe { launch(&*driver, stream, name, shape, &args) };
    driver.prepare(&[find("combine_f32").unwrap()]).unwrap();
    for shape in [Shape::blocks(2), Shape::blocks(2).shared(60 << 10), Shape::blocks(2).cooperative()] {
        clear();
        run("combine_f32", shape).unwrap();
        assert_eq!(out.to_vec().unwrap(), reversed, "{shape:?}");
    }
    refused(run("combine_f32", Shape::blocks(1).shared(300 << 10)), "shared memory");
    refused(run("combine_f99", Shape::blocks(1)), "no kernel combine_f99");

    clear();
    let (from, to) = (driver.new_event().unwrap(), driver.new_event().unwrap());
    let begin = || unsafe { driver.begin_capture(stream) };
    let end = || unsafe { driver.end_capture(stream) };
    begin().unwrap();
    refused(driver.allocate(64), "captured");
    refused(unsafe { driver.synchronise(stream) }, "captured");
    refused(out.to_vec(), "captured");
    run("combine_f32", Shape::blocks(3)).unwrap();
    // Not made ready before: it is compiled and loaded while the stream captures.
    run("combine_bf16", Shape::blocks(0)).unwrap();
    run("combine_f16", Shape { dependent: true, ..Shape::blocks(1) }).unwrap();
    let graph = end().unwrap();
    assert_eq!(driver.graph_kernels(&graph), ["combine_f32", "combine_f16"]);
    assert_eq!(out.to_vec().unwrap(), [0.0; 15], "nothing has run yet");
    refused(end(), "not capturing");
    driver.end_graph(graph);

    begin().unwrap();
    run("combine_f32", Shape::blocks(3)).unwrap();
    let graph = end().unwrap();
    unsafe {
        driver.record(stream, &from).unwrap();
        driver.replay(stream, &graph).unwrap();
        driver.record(stream, &to).unwrap();
    }
    assert_eq!(out.to_vec().unwrap(), reversed);
    let ms = unsafe { driver.elapsed_ms(&from, &to) }.unwrap();
    assert!((0.0..10_000.0).contains(&ms), "{ms} ms");
    driver.end_graph(graph);
    unsafe {
        driver.end_event(from);
        driver.end_event(to);
    }

    refused(driver.allocate(1 << 60), no_room);
    // A buffer outlives its session.
    drop(session);
    assert_eq!(out.to_vec().unwrap(), reversed);
    for buffer in [pairs, out] {
        buffer.free().unwrap();
    }
    row_pairs.free().unwrap();
}

#[test]
#[cfg(feature = "emulate")]
fn the_emulation_behaves() {
    use fair_moe::gpu::driver::Arch;
    use fair_moe::gpu::driver::emulated::{Emulated, Settings};
    for arch in [Arch(80), Arch::HOPPER] {
        behaves(Arc::new(Emulated::new(Settings::new(1, arch))), "no room");
    }
}

#[test]
#[cfg(feature = "cuda")]
fn a_gpu_behaves() {
    use fair_moe::gpu::driver::cuda::Cuda;
    match Cuda::shared(0) {
        Ok(cuda) => behaves(cuda, "OUT_OF_MEMORY"),
        Err(why) => support::skip("gpu", &why.to_string()),
    }
}

#[test]
#[cfg(feature = "cuda")]
fn a_gpu_that_is_not_there_is_one_sentence() {
    use fair_moe::gpu::driver::cuda::Cuda;
    let why = Cuda::new(4711).unwrap_err();
    assert!(matches!(why, Error::Unavailable { .. }), "{why:?}");
    assert_eq!(why.to_string().lines().count(), 1);
    match Cuda::devices() {
        Ok(devices) => assert!(devices.iter().all(|facts| facts.driver >= 12000 && facts.arch.0 >= 10), "{devices:?}"),
        Err(why) => assert!(why.to_string().starts_with("CUDA cannot be used: "), "{why}"),
    }
}
