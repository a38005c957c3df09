//! The facts of the hardware that the kernels rely on hold on its emulation: so their kernels are right before they meet a GPU.
#![cfg(feature = "emulate")]

mod support;

use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::gpu::driver::{Arch, Driver};
use fair_moe::gpu::facts::{self, Verdict};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A fact that was tried.
struct Tried {
    number: u32,
    name: &'static str,
    verdict: Verdict,
}

fn facts(seed: u64, mode: u32, arch: Arch) -> Vec<Tried> {
    let driver: Arc<dyn Driver> = Arc::new(Emulated::new(Settings { mode, ..Settings::new(seed, arch) }));
    let tried = |fact: facts::Fact| Tried { number: fact.number, name: fact.name, verdict: fact.verdict() };
    facts::facts(&driver).unwrap().into_iter().map(tried).collect()
}

#[test]
fn all_facts_hold_on_sm_90a() {
    for seed in 0..support::gpu::seeds() {
        for mode in 0..3 {
            let found = facts(seed, mode, Arch::HOPPER);
            let numbers: BTreeSet<u32> = found.iter().map(|fact| fact.number).collect();
            assert_eq!(numbers, (1..=13).collect());
            for fact in found {
                let fine = matches!(fact.verdict, Verdict::Holds | Verdict::Tells(_));
                assert!(fine, "seed {seed}, mode {mode}: {}. {}: {:?}", fact.number, fact.name, fact.verdict);
            }
        }
    }
}

#[test]
fn older_architectures_have_the_facts_that_are_theirs() {
    for seed in 0..support::gpu::seeds() {
        let found = facts(seed, (seed % 3) as u32, Arch(80));
        let here: Vec<_> = found.iter().filter(|fact| fact.verdict != Verdict::NotHere).collect();
        assert_eq!(here.len(), 13);
        let (told, right): (Vec<_>, Vec<_>) = here.into_iter().partition(|fact| matches!(fact.verdict, Verdict::Tells(_)));
        assert_eq!(told.iter().map(|fact| fact.name).collect::<Vec<_>>(), ["how mma.sync adds up in f32"]);
        for fact in right {
            assert_eq!(fact.verdict, Verdict::Holds, "seed {seed}: {}. {}", fact.number, fact.name);
        }
    }
}

#[test]
fn no_two_facts_are_said_alike() {
    let names: BTreeSet<_> = facts(0, 0, Arch(80)).into_iter().map(|fact| (fact.number, fact.name)).collect();
    assert_eq!(names.len(), facts(0, 0, Arch(80)).len());
}
