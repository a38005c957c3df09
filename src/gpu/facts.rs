//! What documents say of the hardware and the kernels rely on, each tried by a tiny kernel whose answer is known: computed here from the
//! documented layouts, by neither a GPU nor its emulation. How fast anything is, is no fact of these: that is for `bench`.

// SAFETY: every probe launches one kernel of kernels/facts*.cu on buffers that it made as large as that kernel's head says.
#![allow(unsafe_code)]

mod follow;
mod matrices;

use super::args::FactProbe;
use super::buffer::Buffer;
use super::driver::{Arch, Driver, Shape};
use super::session::Session;
use crate::error::Result;
use bytemuck::Pod;
use std::fmt::Display;
use std::sync::Arc;

/// One fact, to be tried on a device.
pub struct Fact {
    /// Facts of one number belong together.
    pub number: u32,
    /// What is said, in a phrase.
    pub name: &'static str,
    /// None where it is about another architecture.
    run: Option<fn(&Session) -> Answer>,
    told: bool,
    session: Session,
}

/// Whether a fact holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Holds,
    /// It does not: what was expected, what came, and where.
    Fails(String),
    /// Nothing relies on it either way: what it is.
    Tells(String),
    /// The device's architecture does not have what it is about.
    NotHere,
    /// The device no longer runs anything, since a fault took its context.
    Untried,
}

/// All facts, in the order of their numbers, to be tried on a device one after another.
///
/// # Errors
/// The device cannot be used at all.
pub fn facts(driver: &Arc<dyn Driver>) -> Result<Vec<Fact>> {
    let session = Session::new(driver)?;
    let hopper = driver.facts().arch == Arch::HOPPER;
    let of = |probe: &Probe| {
        let run = (hopper || !probe.hopper).then_some(probe.run);
        Fact { number: probe.number, name: probe.name, run, told: probe.told, session: session.clone() }
    };
    Ok(PROBES.iter().map(of).collect())
}

impl Fact {
    /// Whether there is anything to try here.
    pub fn is_here(&self) -> bool {
        self.run.is_some()
    }

    /// Tries it. One that fails does not keep the others from being tried, unless it takes the device's context with it.
    pub fn verdict(&self) -> Verdict {
        let Some(run) = self.run else { return Verdict::NotHere };
        if self.session.upload(&[0u32]).and_then(|word| word.to_vec()).is_err() {
            return Verdict::Untried;
        }
        match run(&self.session) {
            Ok(None) => Verdict::Holds,
            Ok(Some(answer)) if self.told => Verdict::Tells(answer),
            Ok(Some(difference)) => Verdict::Fails(difference),
            Err(why) => Verdict::Fails(why.to_string()),
        }
    }
}

/// Nothing, or how the answer differs from the one that is known, or the answer where none is.
type Answer = Result<Option<String>>;

struct Probe {
    number: u32,
    name: &'static str,
    /// Whether only sm_90a has it.
    hopper: bool,
    /// Whether its answer is none of right and wrong.
    told: bool,
    run: fn(&Session) -> Answer,
}

const fn general(number: u32, name: &'static str, run: fn(&Session) -> Answer) -> Probe {
    Probe { number, name, hopper: false, told: false, run }
}

const fn hopper(number: u32, name: &'static str, run: fn(&Session) -> Answer) -> Probe {
    Probe { number, name, hopper: true, told: false, run }
}

const fn told(number: u32, name: &'static str, run: fn(&Session) -> Answer) -> Probe {
    Probe { number, name, hopper: false, told: true, run }
}

const PROBES: &[Probe] = &[
    hopper(1, "a wgmma descriptor of K-major operands", |s| matrices::wgmma(s, "facts_wgmma_nn", 128, [false, false])),
    hopper(2, "a wgmma descriptor of an MN-major B", |s| matrices::wgmma(s, "facts_wgmma_nt", 128, [false, true])),
    hopper(2, "a wgmma descriptor of an MN-major A", |s| matrices::wgmma(s, "facts_wgmma_tn", 128, [true, false])),
    hopper(2, "wgmma descriptors of MN-major operands", |s| matrices::wgmma(s, "facts_wgmma_tt", 128, [true, true])),
    hopper(1, "a wgmma descriptor of 192 columns", |s| matrices::wgmma(s, "facts_wgmma_192_nn", 192, [false, false])),
    hopper(2, "wgmma descriptors of MN-major operands, one of 192 columns", |s| {
        matrices::wgmma(s, "facts_wgmma_192_tt", 192, [true, true])
    }),
    hopper(1, "a wgmma descriptor of 256 columns", |s| matrices::wgmma(s, "facts_wgmma_wide_nn", 256, [false, false])),
    hopper(2, "wgmma descriptors of MN-major operands, one of 256 columns", |s| {
        matrices::wgmma(s, "facts_wgmma_wide_tt", 256, [true, true])
    }),
    hopper(3, "the swizzle of a tensor-map load is by address bits", matrices::swizzle),
    hopper(3, "wgmma reads what a tensor map swizzled", matrices::wgmma_from_maps),
    general(4, "the registers of ldmatrix", matrices::ldmatrix),
    general(4, "the fragments of mma.sync in bf16", |s| matrices::mma::<half::bf16>(s, "facts_mma_bf16")),
    general(4, "the fragments of mma.sync in f16", |s| matrices::mma::<half::f16>(s, "facts_mma_f16")),
    hopper(4, "the rows of stmatrix", matrices::stmatrix),
    hopper(4, "the accumulators of wgmma", matrices::accumulators),
    hopper(5, "a box beyond the tensor's ends counts whole and holds zeros there, x first", |s| matrices::bounds(s, [8, -3])),
    hopper(5, "a box before the tensor's start likewise", |s| matrices::bounds(s, [-5, 30])),
    hopper(5, "a box may have 256 rows", |s| matrices::rows(s, 256)),
    hopper(5, "a box in three dimensions ends with its slice, whatever follows in memory", |s| {
        matrices::slices(s, &[[0, 0, 1], [64, 40, 0], [32, 79, 1], [-8, -3, 2]])
    }),
    hopper(5, "one wholly outside counts whole and holds zeros", |s| {
        matrices::slices(s, &[[96, 0, 0], [128, 16, 1], [0, 80, 0], [0, 128, 1], [0, 0, 3], [0, -64, 1]])
    }),
    hopper(6, "a wait by parity passes when the phase of that parity has ended", parity),
    hopper(6, "bytes may come before they are expected", |s| matrices::rows(s, 64)),
    hopper(7, "a copy's own arrival is one of the count, after all of the thread's copies", arrive_by_copy),
    hopper(8, "wgmma sees what cp.async wrote before the writer's wait, fence and arrival", |s| {
        matrices::pipeline(s, "facts_pipeline", 2)
    }),
    hopper(8, "it does with the copies' own arrival and the reader's fence", |s| {
        matrices::pipeline(s, "facts_pipeline_by_copy", 2)
    }),
    hopper(9, "after wgmma's wait and an arrival a stage may be written again", |s| matrices::pipeline(s, "facts_pipeline", 31)),
    hopper(9, "it may with the copies' own arrival", |s| matrices::pipeline(s, "facts_pipeline_by_copy", 31)),
    hopper(10, "accumulators may hold NaN where they are not read, and be changed between wait and fence", matrices::scale),
    hopper(11, "128 threads give up registers that 256 take", |s| thread_numbers(s, "facts_registers", 384)),
    hopper(11, "128 threads give up registers that 384 take", |s| thread_numbers(s, "facts_registers_of_four", 512)),
    general(11, "dynamic shared memory begins at a multiple of 1024", shared_base),
    general(12, "conversions round to nearest even, and NaN becomes 0x7fff", conversions),
    general(12, "mma.sync takes the upper 19 bits of an f32 as tf32", matrices::tf32),
    told(12, "how mma.sync adds up in f32", matrices::addition),
    general(12, "bar.arrive counts and bar.sync waits", named_barriers),
    general(12, "what is released by one block is acquired by another", handover),
    hopper(12, "griddepcontrol does nothing in an ordinary launch", |s| thread_numbers(s, "facts_dependents", 32)),
    general(13, "after its wait a dependent launch sees what all launches ahead wrote", |s| follow::sees(s, false)),
    general(13, "it does within a captured graph", |s| follow::sees(s, true)),
    general(13, "what it writes then was not there for the launch ahead", follow::writes_later),
    general(13, "it sees what was filled ahead of it", follow::sees_a_fill),
];

fn launch(session: &Session, kernel: &str, shape: Shape, args: &FactProbe) -> Result<()> {
    // SAFETY: as above.
    unsafe { session.queue().launch(kernel, shape, args) }
}

/// Where the two differ first.
fn compare<T: PartialEq + Display>(got: &[T], want: &[T], place: impl Fn(usize) -> String) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("expected {} values, got {}", want.len(), got.len()));
    }
    let wrong: Vec<usize> = (0..want.len()).filter(|&i| got[i] != want[i]).collect();
    let &first = wrong.first()?;
    let share = format!("{} of {} differ", wrong.len(), want.len());
    Some(format!("expected {}, got {} at {}; {share}", want[first], got[first], place(first)))
}

/// What a kernel of one block wrote, which begins as zeros.
fn answer<T: Pod>(session: &Session, kernel: &str, shape: Shape, len: usize, args: FactProbe) -> Result<Vec<T>> {
    let out: Buffer<T> = session.upload(&vec![T::zeroed(); len])?;
    launch(session, kernel, shape, &FactProbe { out: out.pointer(), ..args })?;
    let values = out.to_vec()?;
    out.free()?;
    Ok(values)
}

fn thread_numbers(session: &Session, kernel: &str, threads: u32) -> Answer {
    let got: Vec<u32> = answer(session, kernel, Shape::blocks(1), threads as usize, FactProbe::default())?;
    let want: Vec<u32> = (0..threads).collect();
    Ok(compare(&got, &want, |thread| format!("thread {thread}")))
}

fn parity(session: &Session) -> Answer {
    let got: Vec<u32> = answer(session, "facts_parity", Shape::blocks(1).shared(64), 10, FactProbe::default())?;
    // Two arrivals end a phase; the phase before the first counts as ended, with parity 1.
    let want: Vec<u32> = (0..5u32).flat_map(|arrivals| if arrivals / 2 % 2 == 0 { [0, 1] } else { [1, 0] }).collect();
    Ok(compare(&got, &want, |i| format!("parity {} after {} arrivals", i % 2, i / 2)))
}

fn arrive_by_copy(session: &Session) -> Answer {
    let want: Vec<u32> = (0..1024).map(|i| i * 7 + 1).collect();
    let a = session.upload(&want)?;
    let args = FactProbe { a: a.pointer(), ..Default::default() };
    let got: Vec<u32> = answer(session, "facts_arrive_by_copy", Shape::blocks(1).shared(4096 + 64), 1024, args)?;
    Ok(compare(&got, &want, |i| format!("word {i}")))
}

fn shared_base(session: &Session) -> Answer {
    let got: Vec<u32> = answer(session, "facts_shared_base", Shape::blocks(1).shared(2048), 1, FactProbe::default())?;
    Ok(compare(&got, &[0], |_| "its start modulo 1024".into()))
}

fn named_barriers(session: &Session) -> Answer {
    let got: Vec<u32> = answer(session, "facts_named_barriers", Shape::blocks(1), 65, FactProbe::default())?;
    let want: Vec<u32> = (0..64).map(|i| 7 * 64 + i).chain([0]).collect();
    Ok(compare(&got, &want, |i| format!("thread {i}")))
}

fn handover(session: &Session) -> Answer {
    let blocks = session.queue().driver.facts().multiprocessors;
    let mut want: Vec<u32> = (0..32).collect();
    let (a, counters) = (session.upload(&want)?, session.upload(&[0u32])?);
    for block in 0..blocks {
        want.rotate_left(1);
        want.iter_mut().for_each(|value| *value += block + 1);
    }
    let args = FactProbe { a: a.pointer(), counters: counters.pointer(), ..Default::default() };
    let got: Vec<u32> = answer(session, "facts_handover", Shape::blocks(blocks).cooperative(), 32, args)?;
    Ok(compare(&got, &want, |i| format!("word {i} of the last of {blocks} blocks")))
}

fn conversions(session: &Session) -> Answer {
    let special = [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, 65504.0, 65519.9, 65520.0, 1e30, 1e-40, 3.4e38];
    // Ties, and what lies just beside them, in both formats; numbers below f16's normal ones.
    let ties = (0..64)
        .flat_map(|i| [0x3f80_8000u32, 0x3f80_1000, 0x3880_1000, 0x3300_0000, 0x3600_4000].map(|bits| bits + i * 0x2800 + i % 3));
    let values: Vec<f32> = special.into_iter().chain(ties.map(f32::from_bits)).collect();
    let word = |v: f32| half::bf16::from_f32(v).to_bits() as u32 | (half::f16::from_f32(v).to_bits() as u32) << 16;
    let mut want: Vec<u32> = values.iter().map(|&v| word(v)).collect();
    let nans = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)];
    want.extend(nans.map(|_| 0x7fff_7fff));
    let values: Vec<f32> = values.into_iter().chain(nans).collect();
    let a = session.upload(&values)?;
    let args = FactProbe { a: a.pointer(), count: values.len() as i32, ..Default::default() };
    let got: Vec<u32> = answer(session, "facts_conversions", Shape::blocks(1), 2 * values.len(), args)?;
    // Alone and as one of a pair.
    let want: Vec<u32> = want.into_iter().flat_map(|word| [word, word]).collect();
    Ok(compare(&got, &want, |i| format!("{:e}, of bits {:#x}", values[i / 2], values[i / 2].to_bits())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_what_was_expected_and_where() {
        assert_eq!(compare(&[1, 2, 3], &[1, 2, 3], |i| i.to_string()), None);
        let said = compare(&[1, 5, 6], &[1, 2, 3], |i| format!("row {i}")).unwrap();
        assert_eq!(said, "expected 2, got 5 at row 1; 2 of 3 differ");
        assert_eq!(compare(&[f32::NAN], &[0.0], |i| i.to_string()).unwrap(), "expected 0, got NaN at 0; 1 of 1 differ");
        assert!(compare(&[1], &[1, 2], |i| i.to_string()).unwrap().contains("expected 2 values"));
    }
}
