//! Half-precision layers that are too small to gain from half-precision products run wide, and round at the end.
//!
//! Products of half-precision matrices come rounded out of the GEMM. Over the thousands of terms of a real layer that averages out;
//! over a few dozen it does not, and the gate's gradient, a difference of such sums, would lose its first digits.

use super::{moe_backward, moe_forward, widen};
use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::Result;
use crate::moe::{GradientMode, MoeInput, MoeState, Routing, Upstream};
use crate::parameters::Parameters;

/// Multiplications of one of the six products, over all experts, and parameters of one of their weights: a few milliseconds.
const SMALL: usize = 1 << 24;

/// Whether a layer of half precision runs wide on this input.
pub fn goes_wide<T: Element>(config: &MoeConfig, input: &MoeInput<'_, T>) -> bool {
    let rows = (input.rows() * config.top_k).max(config.experts.count);
    let size = rows.saturating_mul(config.width).saturating_mul(config.experts.width);
    T::DTYPE != T::Wide::DTYPE && size <= SMALL
}

fn parameters_in<T: Element>(narrow: &Parameters<&[T]>) -> Parameters<Vec<T::Wide>> {
    Parameters::from_fn(|p| widen(narrow[p]).into_owned())
}

fn input_in<'a, T: Element>(input: &MoeInput<'a, T>, x: &'a [T::Wide]) -> MoeInput<'a, T::Wide> {
    let MoeInput { tokens, samples, layout, row_mask, rows_needed, .. } = *input;
    MoeInput { x, tokens, samples, layout, row_mask, rows_needed }
}

fn narrow<T: Element>(wide: &[T::Wide], to: &mut [T]) {
    to.iter_mut().zip(wide).for_each(|(to, &v)| *to = T::narrow(v));
}

/// As [`super::moe_forward`].
pub fn forward<T: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    y: &mut [T],
    routing: &mut Routing<T::Wide>,
    saved: Option<(&mut Vec<T>, &mut Vec<T>)>,
) -> Result<()> {
    let (parameters, x) = (parameters_in(parameters), widen(input.x));
    let (mut wide_y, mut inner, mut glu) = (vec![T::Wide::default(); y.len()], vec![], vec![]);
    let wide_saved = saved.is_some().then_some((&mut inner, &mut glu));
    moe_forward(config, &parameters.as_slices(), &input_in(input, &x), &mut wide_y, routing, wide_saved)?;
    narrow(&wide_y, y);
    if let Some((to_inner, to_glu)) = saved {
        for (wide, to) in [(&inner, to_inner), (&glu, to_glu)] {
            to.resize(wide.len(), T::default());
            narrow(wide, to);
        }
    }
    Ok(())
}

/// As [`super::moe_backward`], from a forward pass of its own: what was saved is rounded.
pub fn backward<T: Element, G: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    upstream: &Upstream<'_, T>,
    dx: &mut [T],
    gradients: &mut Parameters<&mut [G]>,
    mode: GradientMode,
) -> Result<()> {
    let (parameters, x, dy) = (parameters_in(parameters), widen(input.x), widen(upstream.dy));
    let (parameters, input) = (parameters.as_slices(), input_in(input, &x));
    let (mut state, mut wide) = (MoeState::default(), vec![T::Wide::default(); dx.len()]);
    let MoeState { routing, inner, glu } = &mut state;
    moe_forward(config, &parameters, &input, &mut wide, routing, Some((inner, glu)))?;
    let Upstream { dweights, dprobabilities, dlogits, .. } = *upstream;
    let upstream = Upstream { dy: &dy, dweights, dprobabilities, dlogits };
    moe_backward(config, &parameters, &input, &state, &upstream, &mut wide, gradients, mode)?;
    narrow(&wide, dx);
    Ok(())
}
