//! A layer's passes over flat parameters, and over one tensor for what the gate says.

// SAFETY: what the addresses hold is the caller's promise, passed on to each launch.
#![allow(unsafe_code)]

use crate::config::MoeConfig;
use crate::dtype::DType;
use crate::error::{Result, expect_shape};
use crate::gpu::Queue;
use crate::gpu::driver::{Facts, Pointer};
use crate::gpu::moe::{
    DeviceInput, MoeBackwardArgs, MoeForwardArgs, State, StatePart, Workspace, backward_workspace_bytes, carve_state,
    forward_workspace_bytes, moe_backward, moe_forward, state_layout,
};
use crate::moe::{GradientMode, Layout};
use crate::parameters::{Param, Parameters, flat_len};

/// What the gate says, in the order in which one tensor f32 [3, N, E] holds it.
const GATE: [StatePart; 3] = [StatePart::Weights, StatePart::Probabilities, StatePart::Logits];

/// A layer on T·B rows.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub config: MoeConfig,
    pub dtype: DType,
    pub tokens: usize,
    pub samples: usize,
    pub layout: Layout,
    /// How many rows' output is needed.
    pub needed: usize,
}

/// What both passes read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs {
    /// [N, D].
    pub x: Pointer,
    /// All parameters, in the order of [`Param::ALL`].
    pub flat: Pointer,
    /// u8 [N], or none: as [`DeviceInput`] has them.
    pub routed: Pointer,
    pub needed: Pointer,
}

/// What forward leaves: [3, N, E] of the gate, and the rest of the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub gate: Pointer,
    pub state: Pointer,
}

/// What backward is given and gives; but for `dgate`, which is f32 [3, N, E], in the layer's dtype.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gradients {
    pub dy: Pointer,
    pub dgate: Pointer,
    pub dx: Pointer,
    pub dflat: Pointer,
}

impl Rows {
    /// N.
    pub fn count(&self) -> usize {
        self.tokens * self.samples
    }

    /// Checks the lengths of x and of the flat parameters.
    pub fn check(&self, x: usize, flat: usize) -> Result<()> {
        expect_shape("x", &[self.tokens, self.samples, self.config.width], x)?;
        expect_shape("the flat parameters", &[flat_len(&self.config)?], flat)
    }

    /// Bytes of the state, without what the gate says.
    pub fn state_bytes(&self) -> Result<usize> {
        Ok(carve_state(&self.state_layout()?, 0)?.1)
    }

    /// Bytes of the workspace of a forward pass.
    pub fn forward_bytes(&self, facts: &Facts) -> Result<usize> {
        forward_workspace_bytes(facts, &self.config, self.dtype, self.tokens, self.samples, self.needed)
    }

    /// Bytes of the workspace of a backward pass.
    pub fn backward_bytes(&self, facts: &Facts) -> Result<usize> {
        backward_workspace_bytes(facts, &self.config, self.dtype, self.tokens, self.samples, self.needed)
    }

    /// y [N, D], and what backward reads.
    ///
    /// # Safety
    /// As [`moe_forward`].
    pub unsafe fn forward(&self, queue: &Queue<'_>, at: Inputs, left: Left, y: Pointer, workspace: Workspace) -> Result<()> {
        let args = MoeForwardArgs {
            input: self.input(at),
            y,
            y_stride: self.config.width,
            state: self.state(left)?,
            // A loss is another op, which is given weights and a mask of its own, and nothing that this one left beside them.
            counted: 0,
            columns: 0,
            workspace,
        };
        // SAFETY: the caller's promise.
        unsafe { moe_forward(queue, &self.config, &args) }
    }

    /// dx [N, D], and the gradient of the flat parameters.
    ///
    /// # Safety
    /// As [`moe_backward`].
    pub unsafe fn backward(&self, queue: &Queue<'_>, at: Inputs, left: Left, d: Gradients, workspace: Workspace) -> Result<()> {
        let [dweights, dprobabilities, dlogits] = self.parts(d.dgate);
        let args = MoeBackwardArgs {
            input: self.input(at),
            state: self.state(left)?,
            dy: d.dy,
            dy_stride: self.config.width,
            dweights,
            dprobabilities,
            dlogits,
            dx: d.dx,
            dx_stride: self.config.width,
            gradients: self.parameters(d.dflat),
            gradient_dtype: self.dtype,
            mode: GradientMode::Overwrite,
            workspace,
        };
        // SAFETY: the caller's promise.
        unsafe { moe_backward(queue, &self.config, &args) }
    }

    fn input(&self, at: Inputs) -> DeviceInput {
        DeviceInput {
            dtype: self.dtype,
            tokens: self.tokens,
            samples: self.samples,
            layout: self.layout,
            x: at.x,
            x_stride: self.config.width,
            routed: at.routed,
            needed: at.needed,
            needed_rows: self.needed,
            parameters: self.parameters(at.flat),
        }
    }

    fn parameters(&self, mut flat: Pointer) -> Parameters<Pointer> {
        Parameters::from_fn(|p: Param| {
            let at = flat;
            flat += (p.len(&self.config) * self.dtype.bytes()) as Pointer;
            at
        })
    }

    /// Where each part of a tensor [3, N, E] begins.
    fn parts(&self, gate: Pointer) -> [Pointer; 3] {
        let bytes = (4 * self.count() * self.config.experts.count) as Pointer;
        [0, 1, 2].map(|i| gate + i * bytes)
    }

    fn state_layout(&self) -> Result<State<usize>> {
        let all = state_layout(&self.config, self.dtype, self.tokens, self.samples, self.needed, true)?;
        State::try_from_fn(|part| Ok(if GATE.contains(&part) { 0 } else { all[part] }))
    }

    fn state(&self, left: Left) -> Result<State<Pointer>> {
        let (own, gate) = (carve_state(&self.state_layout()?, left.state)?.0, self.parts(left.gate));
        State::try_from_fn(|part| Ok(GATE.iter().position(|&p| p == part).map_or(own[part], |i| gate[i])))
    }
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use super::*;
    use crate::Capacity;
    use crate::dtype::Element;
    use crate::gpu::buffer::Buffer;
    use crate::gpu::driver::Arch;
    use crate::gpu::driver::Driver;
    use crate::gpu::driver::emulated::{Emulated, Settings};
    use crate::gpu::session::Session;
    use crate::moe::{Moe, MoeInput, MoeState, Upstream};
    use std::sync::Arc;

    fn noise<T: Element>(len: usize, seed: usize) -> Vec<T> {
        (0..len).map(|i| T::from_f64(((i * 7919 + seed * 104729) as f64 * 0.618_033_988_7).fract() * 2.0 - 1.0)).collect()
    }

    fn wide<T: Element>(values: &[T]) -> Vec<f64> {
        values.iter().map(|v| v.to_f64()).collect()
    }

    fn assert_close(what: &str, got: &[f64], want: &[f64], bound: f64) {
        let norm = |of: &[f64]| of.iter().map(|v| v * v).sum::<f64>().sqrt();
        let gap: Vec<f64> = got.iter().zip(want).map(|(a, b)| a - b).collect();
        let error = norm(&gap) / norm(want).max(1e-30);
        assert!(got.len() == want.len() && error <= bound, "{what}: {error:e} is above {bound:e}");
    }

    /// Both passes through addresses alone, against the CPU's.
    fn agrees<T: Element<Wide = f32>>(config: &MoeConfig, layout: Layout, masked: bool, pruned: bool, bound: f64) {
        let (tokens, samples) = (7, 3);
        let n = tokens * samples;
        let (mask, kept): (Vec<bool>, Vec<usize>) = ((0..n).map(|row| row % 5 != 2).collect(), vec![1, 4, 20]);
        let (x, flat): (Vec<T>, Vec<T>) = (noise(n * config.width, 1), noise(flat_len(config).unwrap(), 2));
        let (dy, dgate): (Vec<T>, Vec<f32>) = (noise(x.len(), 3), noise(3 * n * config.experts.count, 4));

        let input = MoeInput {
            row_mask: masked.then_some(&mask[..]),
            rows_needed: pruned.then_some(&kept[..]),
            ..MoeInput::new(&x, tokens, samples, layout)
        };
        let parameters = Parameters::from_flat(config, &flat).unwrap();
        let (layer, mut state) = (Moe::new(config.clone()).unwrap(), MoeState::default());
        let (mut y, mut dx, mut dflat) = (x.clone(), x.clone(), flat.clone());
        layer.forward(&parameters, &input, &mut y, &mut state).unwrap();
        let (a, b) = (dgate.len() / 3, dgate.len() / 3 * 2);
        let upstream =
            Upstream { dy: &dy, dweights: Some(&dgate[..a]), dprobabilities: Some(&dgate[a..b]), dlogits: Some(&dgate[b..]) };
        let mut gradients = Parameters::from_flat_mut(config, &mut dflat).unwrap();
        layer.backward(&parameters, &input, &state, &upstream, &mut dx, &mut gradients, GradientMode::Overwrite).unwrap();

        let driver: Arc<dyn Driver> = Arc::new(Emulated::new(Settings::new(5, Arch(80))));
        let session = Session::new(&driver).unwrap();
        let rows = Rows {
            config: config.clone(),
            dtype: T::DTYPE,
            tokens,
            samples,
            layout,
            needed: if pruned { kept.len() } else { n },
        };
        rows.check(x.len(), flat.len()).unwrap();
        let bytes = |of: &dyn Fn(usize) -> bool| -> Vec<u8> { (0..n).map(|row| of(row).into()).collect() };
        let routed = masked.then(|| session.upload(&bytes(&|row| mask[row])).unwrap());
        let needed = pruned.then(|| session.upload(&bytes(&|row| kept.contains(&row))).unwrap());
        let or_none = |mask: &Option<Buffer<u8>>| mask.as_ref().map_or(0, Buffer::pointer);
        let (x_at, flat_at) = (session.upload(&x).unwrap(), session.upload(&flat).unwrap());
        let at = Inputs { x: x_at.pointer(), flat: flat_at.pointer(), routed: or_none(&routed), needed: or_none(&needed) };
        let (y_at, gate_at) = (session.empty::<T>(x.len()).unwrap(), session.empty::<f32>(dgate.len()).unwrap());
        let state_at = session.empty::<u8>(rows.state_bytes().unwrap()).unwrap();
        let left = Left { gate: gate_at.pointer(), state: state_at.pointer() };
        let room = |bytes: usize| {
            let block = session.empty::<u8>(bytes).unwrap();
            (Workspace { at: block.pointer(), bytes }, block)
        };
        let (workspace, _own) = room(rows.forward_bytes(driver.facts()).unwrap());
        // SAFETY: the buffers are as long as they have to be, and live on.
        unsafe { rows.forward(&session.queue(), at, left, y_at.pointer(), workspace).unwrap() };
        assert_close("y", &wide(&y_at.to_vec().unwrap()), &wide(&y), bound);
        let gate = [&state.routing.weights[..], &state.routing.probabilities, &state.routing.logits].concat();
        assert_close("gate", &wide(&gate_at.to_vec().unwrap()), &wide(&gate), bound);

        let (dy_at, dgate_at) = (session.upload(&dy).unwrap(), session.upload(&dgate).unwrap());
        let (dx_at, dflat_at) = (session.empty::<T>(x.len()).unwrap(), session.empty::<T>(flat.len()).unwrap());
        let d = Gradients { dy: dy_at.pointer(), dgate: dgate_at.pointer(), dx: dx_at.pointer(), dflat: dflat_at.pointer() };
        let (workspace, _own) = room(rows.backward_bytes(driver.facts()).unwrap());
        // SAFETY: as above.
        unsafe { rows.backward(&session.queue(), at, left, d, workspace).unwrap() };
        assert_close("dx", &wide(&dx_at.to_vec().unwrap()), &wide(&dx), bound);
        assert_close("dflat", &wide(&dflat_at.to_vec().unwrap()), &wide(&dflat), bound);
    }

    #[test]
    fn a_layer_on_addresses_gives_what_the_cpu_gives() {
        // Widths at which nothing behind the first parameter lies at a multiple of 16 bytes, and such at which every weight does.
        for (width, inner, hidden) in [(6, 5, 3), (32, 64, 8)] {
            let mut config = MoeConfig::token_authors(width);
            (config.experts.count, config.experts.width, config.top_k, config.capacity) = (4, inner, 2, Capacity::Fixed(3));
            config.gate.hidden.as_mut().unwrap().width = hidden;
            agrees::<f32>(&config, Layout::TokensFirst, false, false, 2e-5);
            agrees::<f32>(&config, Layout::SamplesFirst, true, false, 2e-5);
            agrees::<f32>(&config, Layout::SamplesFirst, false, true, 2e-5);
            agrees::<half::bf16>(&config, Layout::SamplesFirst, false, true, 2e-2);
        }
        agrees::<f32>(&MoeConfig::feature_authors(8, 3), Layout::TokensFirst, false, false, 2e-5);
    }

    #[test]
    fn every_weight_of_a_flat_layer_of_usual_widths_begins_where_sixteen_bytes_can_be_loaded() {
        let config = MoeConfig::token_paper(768);
        let rows = Rows { config, dtype: DType::Bf16, tokens: 197, samples: 1, layout: Layout::SamplesFirst, needed: 197 };
        let at = rows.parameters(256);
        use Param::*;
        let weights = [GateFc1Weight, GateFc2Weight, ExpertsFc1Weight, ExpertsFc2Weight];
        assert!(weights.into_iter().all(|p| at[p].is_multiple_of(16)), "{at:?}");
    }
}
