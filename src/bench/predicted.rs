//! What the cost model that chooses tiles says of a shape's parts. Nothing of it was measured.

use super::{Ceilings, Cost, Part, Pass, Shape, Stage};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::driver::Facts;
use crate::gpu::moe::Sizes;
use crate::gpu::plan::{CARDS, Card, predict};

/// What a part is predicted to take.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// The stage and the direction.
    pub part: Part,
    /// Its kernel, or how many they are.
    pub kernel: String,
    /// What takes the time; none of several kernels.
    pub bound: Option<&'static str>,
    /// How long.
    pub seconds: f64,
    /// What there is to do.
    pub cost: Cost,
}

/// The card of that name, as a driver would describe it.
///
/// # Errors
/// When none is known by it.
pub fn card(name: &str) -> Result<Facts> {
    let names = || format!("one of {}", CARDS.each_ref().map(|card| card.name).join(", "));
    let known = CARDS.iter().find(|card| card.name.eq_ignore_ascii_case(name));
    known.map(Card::facts).ok_or_else(|| Error::config("the card", names(), name))
}

/// The device itself, or of an emulated one the card that stands for its architecture.
pub fn card_of(facts: &Facts) -> Facts {
    let stands = |card: &&Card| facts.driver == 0 && card.arch == facts.arch;
    CARDS.iter().find(stands).map_or_else(|| facts.clone(), Card::facts)
}

impl Ceilings {
    /// What predictions take a card to reach.
    pub fn of_card(facts: &Facts, dtype: DType) -> Self {
        let card = Card::of(facts);
        let flops_per_second = if dtype == DType::F32 { card.scalar } else { card.tensor };
        Self { flops_per_second, bytes_per_second: card.memory }
    }
}

/// Of every part of the layer of `shape` on B = `samples` samples: with the most pairs that there can be, evenly over the experts. And
/// how many those are.
///
/// # Errors
/// When that is too large, or for f64.
pub fn predicted(facts: &Facts, shape: &Shape, samples: usize, dtype: DType) -> Result<(usize, Vec<Predicted>)> {
    let (config, needed) = (&shape.config, shape.needed(samples));
    let pairs = Sizes::new(config, shape.tokens, samples, needed)?.routed_pairs;
    let (mut found, mut alone): (Vec<Predicted>, Vec<Predicted>) = (vec![], vec![]);
    for kernel in predict(facts, config, dtype, shape.tokens, samples, needed, shape.given)? {
        let pass = if kernel.backward { Pass::Backward } else { Pass::Forward };
        let Some(stage) = stage(&kernel.kernel) else { continue };
        let cost = Cost { flops: kernel.flops, bytes: kernel.bytes };
        let bound = Some(kernel.bound.name());
        let to = if kernel.launched { &mut found } else { &mut alone };
        to.push(Predicted { part: (stage, pass), kernel: kernel.kernel, bound, seconds: kernel.seconds, cost });
    }
    let whole = if shape.given { Stage::Routed } else { Stage::Layer };
    let stages = [Stage::Gate, Stage::Route, Stage::Experts, Stage::Combine, whole];
    let sums = stages.into_iter().flat_map(|stage| [(stage, Pass::Forward), (stage, Pass::Backward)]);
    let sums: Vec<_> = sums.filter_map(|part| sum(&found, part, whole)).collect();
    let products = found.into_iter().chain(alone).filter(|p| p.part.0.is_product());
    let all = products.chain(sums).collect();
    Ok((pairs, all))
}

/// Which part of the layer a kernel is of.
fn stage(kernel: &str) -> Option<Stage> {
    use Stage::{Combine, Gate, Route};
    let products = Stage::PRODUCTS.into_iter().map(|part| part.0).chain([Stage::Merged]);
    let products = products.map(|stage| (format!("experts_{}_", stage.name()), stage));
    let others = [Gate, Route, Combine].map(|stage| (stage.name().to_owned(), stage));
    products.into_iter().chain(others).find(|(start, _)| kernel.starts_with(start)).map(|(_, stage)| stage)
}

/// All kernels of one part one after the other; none where there are none.
fn sum(kernels: &[Predicted], part: Part, whole: Stage) -> Option<Predicted> {
    let within =
        |of: Part| of.1 == part.1 && (part.0 == whole || of.0 == part.0 || (part.0 == Stage::Experts && of.0.is_product()));
    let mut of = kernels.iter().filter(|kernel| within(kernel.part));
    let first = Predicted { part, ..of.next()?.clone() };
    let mut count = 1;
    let all = of.fold(first, |all, kernel| {
        count += 1;
        Predicted { bound: None, seconds: all.seconds + kernel.seconds, cost: all.cost + kernel.cost, ..all }
    });
    Some(if count == 1 { all } else { Predicted { kernel: format!("{count} kernels"), ..all } })
}
