//! The layer and the loss against the reference on the machine at hand, over one table of cases: what `fair-moe check` prints, and
//! what the tests start from.

mod cases;
mod fol;
mod layer;
mod loss;

pub use cases::{every_axis, full_size};
pub use fol::check_fol;
pub use layer::{Layer, Results};
pub use loss::check_loss;

use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::parameters::Param;

/// How far one result of one case is from the reference.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The stage that gave it, or `layer`.
    pub stage: &'static str,
    /// `forward` or `backward`.
    pub pass: &'static str,
    /// The case.
    pub case: &'static str,
    /// The result.
    pub what: &'static str,
    /// Relative L2 error; infinite where a decision differs.
    pub error: f64,
    /// What the error may be.
    pub bound: f64,
    /// The element that is furthest off.
    pub at: usize,
}

impl Finding {
    /// Whether the error is within its bound. NaN never is.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

/// Who is told what a check is about to do and what it finds. A plain list takes every case.
pub trait Watch {
    /// Before each case: whether it is to be run.
    fn begin(&mut self, case: &'static str) -> bool;
    /// What was found.
    fn find(&mut self, finding: Finding);
}

impl Watch for Vec<Finding> {
    fn begin(&mut self, _: &'static str) -> bool {
        true
    }

    fn find(&mut self, finding: Finding) {
        self.push(finding);
    }
}

/// Decisions as the reference takes them.
const DECISIONS: [&str; 5] = ["chosen", "rows of pairs", "pairs of rows", "expert offsets", "weights"];
/// The same as they follow from the gate's own results.
const OWN_DECISIONS: [&str; 5] = [
    "chosen by its own logits",
    "rows of pairs by its own gate",
    "pairs of rows by its own gate",
    "expert offsets by its own gate",
    "weights by its own gate",
];

/// Multiprocessors from which on a device is given [`full_size`] too: of the small cases each of its blocks has one tile at most.
const FULL: u32 = 16;

/// Checks every case of [`every_axis`] in `T` on that device, parameter gradients too. Routing must be the same exactly: no two of the
/// cases' weights that capacity chooses between are within 1e-5 of each other. And it must be exactly what follows from the logits and
/// probabilities that were computed, so that a miss tells whether the gate or routing is wrong. Bounds: 1e-10 in f64, 2e-5 in f32 and
/// for all that the gate decides, 1.5e-3 in f16, 7e-3 in bf16. A gradient that is nearly zero is measured against a thousandth of the
/// largest. Of [`full_size`] the CPU in f64 gives what is right: the reference would take minutes. What is found is told as it is found,
/// also ahead of an error.
///
/// # Errors
/// Those of the layer, with the case's name.
pub fn check_layer<T: Element>(device: &Device, watch: &mut dyn Watch) -> Result<()> {
    let full = device.driver().is_some_and(|driver| driver.facts().multiprocessors >= FULL);
    let small = every_axis().into_iter().map(|case| (case, Layer::reference as fn(&Layer) -> Result<Results>));
    let large = if full { full_size() } else { vec![] }.into_iter().map(|case| (case, Layer::run::<f64, f64> as _));
    for ((case, layer), right) in small.chain(large) {
        if watch.begin(case) {
            let want = right(&layer);
            want.and_then(|want| check_case::<T>(device, case, &layer, &want, watch)).map_err(|why| of_case(case, &why))?;
        }
    }
    Ok(())
}

/// What went wrong, and in which case.
fn of_case(case: &str, why: &Error) -> Error {
    Error::Refused(format!("in case {case:?}: {why}"))
}

fn check_case<T: Element>(
    device: &Device,
    case: &'static str,
    layer: &Layer,
    want: &Results,
    watch: &mut dyn Watch,
) -> Result<()> {
    let (bound, wide_bound) = match T::DTYPE {
        DType::F64 => (1e-10, 1e-10),
        DType::F32 => (2e-5, 2e-5),
        DType::F16 => (1.5e-3, 2e-5),
        DType::Bf16 => (7e-3, 2e-5),
    };
    let got = layer.run_on::<T, T>(device)?;
    let mut find = |stage, pass, what, difference: Difference, bound| {
        let Difference { error, at } = difference;
        watch.find(Finding { stage, pass, case, what, error, bound, at });
    };
    let (g, own) = (&got.routing, layer.decisions_by(&got.routing)?);
    find("gate", "forward", "probabilities", relative_l2(&g.probabilities, &want.routing.probabilities), wide_bound);
    for (w, [chosen, pair_row, row_pairs, expert_offsets, weights]) in [(&want.routing, DECISIONS), (&own, OWN_DECISIONS)] {
        find("gate", "forward", chosen, decided(&g.chosen, &w.chosen), 0.0);
        find("route", "forward", pair_row, decided(&g.pair_row, &w.pair_row), 0.0);
        find("route", "forward", row_pairs, decided(&g.row_pairs, &w.row_pairs), 0.0);
        find("route", "forward", expert_offsets, decided(&g.expert_offsets, &w.expert_offsets), 0.0);
        find("route", "forward", weights, relative_l2(&g.weights, &w.weights), wide_bound);
    }
    find("layer", "forward", "y", relative_l2(&got.y, &want.y), bound);
    find("layer", "backward", "dx", relative_l2(&got.dx, &want.dx), bound);
    let floor = Param::ALL.map(|p| norm(&want.gradients[p])).into_iter().fold(0.0, f64::max) / 1000.0;
    for p in Param::ALL.into_iter().filter(|p| p.len(&layer.config) > 0) {
        let stage = if p.name().starts_with("gate") { "gate" } else { "experts" };
        let (got, want) = (&got.gradients[p], &want.gradients[p]);
        find(stage, "backward", p.name(), difference(got, want).over(norm(want).max(floor)), bound);
    }
    Ok(())
}

/// How far two arrays are apart, and where most.
#[derive(Clone, Copy)]
struct Difference {
    error: f64,
    at: usize,
}

impl Difference {
    fn over(self, scale: f64) -> Self {
        Self { error: self.error / scale, ..self }
    }
}

/// ‖got - want‖ / ‖want‖; the difference itself where `want` is zero.
fn relative_l2(got: &[f64], want: &[f64]) -> Difference {
    let scale = norm(want);
    difference(got, want).over(if scale == 0.0 { 1.0 } else { scale })
}

/// ‖got - want‖, infinite where lengths differ.
fn difference(got: &[f64], want: &[f64]) -> Difference {
    if got.len() != want.len() {
        return Difference { error: f64::INFINITY, at: got.len().min(want.len()) };
    }
    let errors = || got.iter().zip(want).map(|(g, w)| (g - w).abs());
    // NaN is the furthest off.
    let furthest = errors().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at);
    Difference { error: errors().map(|e| e * e).sum::<f64>().sqrt(), at: furthest }
}

/// Nothing where two lists of decisions are the same.
fn decided<D: PartialEq>(got: &[D], want: &[D]) -> Difference {
    match got == want {
        true => Difference { error: 0.0, at: 0 },
        false => Difference { error: f64::INFINITY, at: got.iter().zip(want).take_while(|(g, w)| g == w).count() },
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
