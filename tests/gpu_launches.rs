//! Dependent launches: each begins before the one ahead of it runs, as far as it may, and one that does not wait as it should is found.
#![cfg(feature = "emulate")]
#![allow(unsafe_code)]

mod support;

use fair_moe::gpu::args::Planted;
use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::gpu::driver::{Arch, Driver, Shape};
use fair_moe::gpu::session::Session;
use std::sync::Arc;

const COUNT: usize = 1000;
const READERS: &[&str] = &["reads", "one_waits", "idle_end", "early"];

fn device(seed: u64, mode: u32, arch: Arch) -> Arc<dyn Driver> {
    Arc::new(Emulated::new(Settings { mode, workers: 2, ..Settings::new(seed, arch) }))
}

fn devices() -> impl Iterator<Item = (String, Arc<dyn Driver>)> {
    let orders = (0..support::gpu::seeds()).flat_map(|seed| (0..3).map(move |mode| (seed, mode)));
    orders.map(|(seed, mode)| (format!("seed {seed}, mode {mode}"), device(seed, mode, Arch::HOPPER)))
}

/// How the launches reach the stream.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Stream,
    Graph,
}

/// Launches one kernel after another, of so many blocks each; then out[i] = i, or what is wrong.
fn chain(driver: &Arc<dyn Driver>, kernels: &[(&str, u32)], by: By) -> Result<(), String> {
    let text = |why: fair_moe::Error| why.to_string();
    let session = Session::new(driver).map_err(text)?;
    let stream = session.queue().stream;
    let (out, parts) = (session.empty::<i32>(COUNT).map_err(text)?, session.empty::<i32>(COUNT).map_err(text)?);
    let args = Planted { out: out.pointer(), parts: parts.pointer(), count: COUNT as i32, ..Planted::default() };
    // SAFETY: both buffers are as long as `count` says; the graph is the one that was captured here.
    unsafe {
        if by == By::Graph {
            driver.begin_capture(stream).map_err(text)?;
        }
        for (name, blocks) in kernels {
            session.queue().launch(name, Shape::blocks(*blocks).shared(2048), &args).map_err(text)?;
        }
        if by == By::Graph {
            let graph = driver.end_capture(stream).map_err(text)?;
            let done = driver.replay(stream, &graph).map_err(text);
            driver.end_graph(graph);
            done?;
        }
    }
    let got = out.to_vec().map_err(text)?;
    let wrong = (0..COUNT).find(|&i| got[i] != i as i32);
    wrong.map_or(Ok(()), |at| Err(format!("wrong result: {} at {at}", got[at])))
}

#[test]
fn right_launches_pass_in_every_order() {
    for (what, driver) in devices() {
        let check = |kernels: &[(&str, u32)]| {
            for by in [By::Stream, By::Graph] {
                chain(&driver, kernels, by).unwrap_or_else(|why| panic!("{what}: {kernels:?}: {why}"));
            }
        };
        for reader in READERS {
            for ahead in ["right_ahead_writes", "right_ahead_is_silent"] {
                check(&[(ahead, 3), (&format!("right_dependent_{reader}"), 3)]);
            }
        }
        check(&[("right_ahead_reads", 5), ("right_dependent_writes", 2)]);
        check(&[("right_ahead_writes", 1), ("right_dependent_by_macro", 7)]);
        // Three in a row: the last one's wait covers the first.
        check(&[("right_ahead_writes", 8), ("right_dependent_writes", 1), ("right_dependent_reads", 2)]);
        check(&[("right_ahead_reads", 2), ("right_ahead_writes", 2), ("right_dependent_writes", 4)]);
    }
}

#[test]
fn planted_launches_are_found_in_every_run() {
    for (what, driver) in devices() {
        let mut pairs: Vec<_> = READERS.iter().map(|what| ("right_ahead_writes", format!("fault_dependent_{what}"))).collect();
        pairs.push(("right_ahead_reads", "fault_dependent_writes".into()));
        for (ahead, fault) in &pairs {
            for (by, blocks) in [(By::Stream, 3), (By::Graph, 3), (By::Stream, 1), (By::Stream, 7)] {
                let why = chain(&driver, &[(ahead, 2), (fault, blocks)], by).expect_err(&format!("{what}: {fault} is not found"));
                let by_rule =
                    why.contains(fault) && why.contains("launches.cu:") && why.contains("never waited for the launches ahead");
                assert!(why.starts_with("wrong result") || by_rule, "{what}: {fault}: {why}");
            }
        }
    }
}

/// A launch that may not be dependent waits for the one ahead, whatever it does first.
#[test]
fn what_is_not_dependent_is_not_overlapped() {
    for arch in [Arch(80), Arch::HOPPER] {
        let driver = device(2, 1, arch);
        let session = Session::new(&driver).unwrap();
        let (out, parts) = (session.empty::<i32>(COUNT).unwrap(), session.empty::<i32>(COUNT).unwrap());
        let args = Planted { out: out.pointer(), parts: parts.pointer(), count: COUNT as i32, ..Planted::default() };
        // SAFETY: both buffers are as long as `count` says.
        let launch = |name, shape| unsafe { session.queue().launch(name, shape, &args) };
        if arch == Arch::HOPPER {
            launch("right_ahead_writes", Shape::blocks(2)).unwrap();
            launch("fault_dependent_one_waits", Shape { dependent: false, ..Shape::blocks(2) }).unwrap();
            assert!((0..).zip(out.to_vec().unwrap()).all(|(i, got)| got == i));
            launch("right_ahead_writes", Shape::blocks(2)).unwrap();
            launch("fault_dependent_one_waits", Shape::blocks(2).cooperative()).unwrap();
            assert!((0..).zip(out.to_vec().unwrap()).all(|(i, got)| got == i));
            let why = launch("right_tail", Shape { dependent: true, ..Shape::blocks(2).cooperative() }).unwrap_err();
            assert!(why.to_string().contains("cannot be dependent"), "{why}");
        }
        launch("right_tail", Shape::blocks(2)).unwrap();
        assert!((0..).zip(out.to_vec().unwrap()).all(|(i, got)| got == i));
    }
}

/// As on a GPU: the call that waits tells it, and so does every later one on the stream; other streams go on.
#[test]
fn a_launch_that_failed_is_told_by_whoever_waits_for_it() {
    let driver = device(0, 1, Arch::HOPPER);
    let [broken, fine] = [(); 2].map(|()| Session::new(&driver).unwrap());
    let outs = [&broken, &fine].map(|session| session.empty::<i32>(COUNT).unwrap());
    let launch = |session: &Session, name| {
        let out = if session.queue().stream == broken.queue().stream { &outs[0] } else { &outs[1] };
        let args = Planted { out: out.pointer(), count: COUNT as i32, ..Planted::default() };
        // SAFETY: the buffer is as long as `count` says; the barrier that half of the threads reach is what is tried.
        unsafe { session.queue().launch(name, Shape::blocks(1), &args) }
    };
    launch(&broken, "fault_half_barrier").unwrap();
    launch(&fine, "right_tail").unwrap();
    for _ in 0..2 {
        let why = outs[0].to_vec().unwrap_err().to_string();
        assert!(why.contains("fault_half_barrier") && why.contains("deadlock"), "{why}");
    }
    let why = launch(&broken, "right_tail").unwrap_err().to_string();
    assert!(why.contains("fault_half_barrier"), "{why}");
    assert!((0..).zip(outs[1].to_vec().unwrap()).all(|(i, got)| got == i));
}

/// The fault is told although a right launch has begun behind it, and memory that both use is given back.
#[test]
fn memory_is_given_back_only_when_what_uses_it_has_ended() {
    for (what, driver) in devices() {
        let session = Session::new(&driver).unwrap();
        let out = session.empty::<i32>(COUNT).unwrap();
        {
            let parts = session.empty::<i32>(COUNT).unwrap();
            let args = Planted { out: out.pointer(), parts: parts.pointer(), count: COUNT as i32, ..Planted::default() };
            // SAFETY: both buffers are as long as `count` says.
            unsafe {
                session.queue().launch("right_ahead_writes", Shape::blocks(3), &args).unwrap();
                session.queue().launch("right_dependent_reads", Shape::blocks(3), &args).unwrap();
            }
            parts.free().unwrap();
        }
        assert!((0..).zip(out.to_vec().unwrap()).all(|(i, got)| got == i), "{what}");
    }
}

/// Whichever thread of the host launches and whichever waits.
#[test]
fn threads_of_the_host_may_take_turns() {
    let driver = device(3, 2, Arch::HOPPER);
    let session = Session::new(&driver).unwrap();
    let (out, parts) = (session.empty::<i32>(COUNT).unwrap(), session.empty::<i32>(COUNT).unwrap());
    for name in ["right_ahead_writes", "right_dependent_reads"] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let args = Planted { out: out.pointer(), parts: parts.pointer(), count: COUNT as i32, ..Planted::default() };
                // SAFETY: both buffers are as long as `count` says.
                unsafe { session.queue().launch(name, Shape::blocks(3), &args) }.unwrap();
            });
        });
    }
    assert!((0..).zip(out.to_vec().unwrap()).all(|(i, got)| got == i));
}
