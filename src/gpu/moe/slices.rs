//! The layer over the host's slices: upload, launch, download.

// SAFETY: the buffers of a `Resident` and of its passes are as long as the layer needs, and outlive the launches.
#![allow(unsafe_code)]

use super::Resident;
use crate::config::MoeConfig;
use crate::dtype::Element;
use crate::error::Result;
use crate::gpu::driver::Driver;
use crate::moe::{GradientMode, MoeInput, MoeState, Routing, Upstream};
use crate::parameters::{Param, Parameters};
use std::sync::Arc;

/// The layer's output and routing; where `saved` is given, what backward needs of the experts too.
pub fn forward<T: Element>(
    driver: &Arc<dyn Driver>,
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    y: &mut [T],
    routing: &mut Routing<T::Wide>,
    saved: Option<(&mut Vec<T>, &mut Vec<T>)>,
) -> Result<()> {
    let resident = Resident::new(driver, config, parameters, input)?;
    let state = resident.new_state(saved.is_some())?;
    let pass = resident.forward(&state)?;
    // SAFETY: as above.
    unsafe { pass.launches.launch(&resident.queue())? };
    pass.y.read(y)?;
    resident.download_state(&state, routing, saved)
}

/// The gradients of x and of every parameter.
#[allow(clippy::too_many_arguments, reason = "what the public function takes")]
pub fn backward<T: Element, G: Element>(
    driver: &Arc<dyn Driver>,
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    state: &MoeState<T>,
    upstream: &Upstream<'_, T>,
    dx: &mut [T],
    gradients: &mut Parameters<&mut [G]>,
    mode: GradientMode,
) -> Result<()> {
    let resident = Resident::new(driver, config, parameters, input)?;
    let state = resident.upload_state(state)?;
    let before = (mode == GradientMode::Accumulate).then(|| gradients.map(|g| &**g));
    let pass = resident.backward(&state, upstream, before.as_ref())?;
    // SAFETY: as above.
    unsafe { pass.launches.launch(&resident.queue())? };
    pass.dx.read(dx)?;
    Param::ALL.into_iter().try_for_each(|p| pass.gradients[p].read(gradients[p]))
}
