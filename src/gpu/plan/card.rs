//! How fast a device is thought to be. None of these figures was measured here: each says where it is from.

use crate::gpu::driver::{Arch, Facts};

/// What one card reaches, all its multiprocessors together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Part of the name that the driver gives it.
    pub name: &'static str,
    /// Its architecture.
    pub arch: Arch,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have.
    shared_bytes: u32,
    /// Dense products of bf16 into f32, in operations a second, as the best library reaches them.
    pub tensor: f64,
    /// The same of f32, without tensor cores.
    pub scalar: f64,
    /// Bytes a second of device memory.
    pub memory: f64,
    /// Bytes a second from the second-level cache.
    pub cache: f64,
}

const fn card(name: &'static str, arch: u32, multiprocessors: u32, shared_kib: u32, tera: [f64; 4]) -> Card {
    let [tensor, scalar, memory, cache] = tera;
    Card {
        name,
        arch: Arch(arch),
        multiprocessors,
        shared_bytes: shared_kib << 10,
        tensor: tensor * 1e12,
        scalar: scalar * 1e12,
        memory: memory * 1e12,
        cache: cache * 1e12,
    }
}

/// The first of an architecture stands for all of it that are not named. In tera a second: tensor, scalar, memory, cache.
///
/// Hopper: 790 and 4.3 are measured on an H200 by others, 750 lies between what cuBLAS reaches on an H100 at 4096 and at 8192; 8.6 is
/// little more than what products in tiles of 128 by 256 without multicast draw (704 TFLOP/s times 768 bytes per 65,536 operations, which
/// tiles of 128 by 128 bear out: 498 TFLOP/s are 7.8). The rest are data sheets, times what is usual: 0.87 of the tensor cores and of the
/// memory, 0.8 of the scalar cores; and for their caches, guesses from bytes a clock. Of the sm_100 the tensor cores are those that
/// `mma.sync` reaches, which is a guess too.
pub const CARDS: [Card; 8] = [
    card("H200", 90, 132, 227, [790.0, 54.0, 4.3, 8.6]),
    card("H100", 90, 132, 227, [750.0, 54.0, 2.9, 8.6]),
    card("A100", 80, 108, 163, [270.0, 15.6, 1.75, 4.8]),
    card("RTX 3090", 86, 82, 99, [62.0, 28.0, 0.82, 2.4]),
    card("RTX 4090", 89, 128, 99, [144.0, 66.0, 0.88, 4.6]),
    card("L40S", 89, 142, 99, [315.0, 73.0, 0.75, 4.6]),
    card("B200", 100, 148, 227, [700.0, 60.0, 7.0, 10.0]),
    card("RTX 5090", 120, 170, 99, [200.0, 84.0, 1.56, 6.0]),
];

/// Whether a driver's name for a device has the words of `name`: no H200 is in `NVIDIA GH200`.
pub(crate) fn is_called(device: &str, name: &str) -> bool {
    device.match_indices(name).any(|(at, _)| {
        let (before, after) = (&device[..at], &device[at + name.len()..]);
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
    })
}

impl Card {
    /// The card of that name, or the one that stands for its architecture, with as many multiprocessors as there are.
    pub fn of(facts: &Facts) -> Card {
        let named = CARDS.iter().find(|card| card.arch == facts.arch && is_called(&facts.name, card.name));
        let card = named.or_else(|| CARDS.iter().find(|card| card.arch == facts.arch)).unwrap_or(&CARDS[0]);
        let share = f64::from(facts.multiprocessors.max(1)) / f64::from(card.multiprocessors);
        let [tensor, scalar, memory, cache] = [card.tensor, card.scalar, card.memory, card.cache].map(|all| all * share);
        Card { multiprocessors: facts.multiprocessors.max(1), tensor, scalar, memory, cache, ..*card }
    }

    /// What the driver would say of it, to plan for a card that is not here.
    pub fn facts(&self) -> Facts {
        Facts {
            name: self.name.into(),
            arch: self.arch,
            multiprocessors: self.multiprocessors,
            shared_bytes: self.shared_bytes,
            memory_bytes: 0,
            cache_bytes: 0,
            driver: 0,
        }
    }
}
