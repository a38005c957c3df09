//! A loss's problem in one flat tensor: of the batch, then of each separate group, [similarity | scale | each gate's weights].

use crate::candle::fol::{Frame, Shapes};
use crate::fol::{FolBatch, Groups};
use crate::gpu::driver::Pointer;
use crate::gpu::fol::{DeviceBatch, DeviceGate, DeviceGradients, DeviceGroups, Problem};

impl Frame {
    fn batches(&self) -> impl Iterator<Item = &Shapes> {
        std::iter::once(&self.batch).chain(&self.separate)
    }

    /// The masks of all gates that have one, one behind the other.
    pub(in crate::candle) fn masks(&self) -> Vec<u8> {
        let masks = self.batches().flat_map(|batch| &batch.gates).filter_map(|gate| gate.row_mask.as_ref());
        masks.flatten().map(|&counts| counts.into()).collect()
    }

    /// The group of each sample, where the groups are in the batch.
    pub(in crate::candle) fn narrow_ids(&self) -> Vec<i32> {
        self.ids.iter().flat_map(|(ids, _)| ids).map(|&id| id as i32).collect()
    }

    /// Where everything is: f32 from `flat` on, [`Frame::masks`] from `masks` on, [`Frame::narrow_ids`] from `ids` on. A scale for each batch.
    pub(in crate::candle) fn problem(&self, mut flat: Pointer, mut masks: Pointer, ids: Pointer, scales: &[f64]) -> Problem {
        let mut batches: Vec<DeviceBatch> = vec![];
        for (batch, &scale) in self.batches().zip(scales) {
            let similarity = flat;
            flat += 4 * (batch.samples * batch.samples + 1) as Pointer;
            let mut gates = vec![];
            for gate in &batch.gates {
                let row_mask = gate.row_mask.as_ref().map_or(0, |_| masks);
                masks += gate.row_mask.as_ref().map_or(0, Vec::len) as Pointer;
                let (rows, experts, layout) = (gate.rows, gate.experts, gate.layout);
                // Whether a tensor's weights are as a layer left them, whose moments of columns would do, is not to be told.
                gates.push(DeviceGate { weights: flat, columns: 0, row_mask, rows, experts, layout });
                flat += 4 * (rows * experts) as Pointer;
            }
            batches.push(DeviceBatch { similarity, scale, samples: batch.samples, gates });
        }
        let batch = batches.remove(0);
        let groups = match &self.ids {
            Some((_, count)) => DeviceGroups::Ids { ids, count: *count },
            None => DeviceGroups::Separate(batches),
        };
        Problem { batch, groups }
    }

    /// Where the gradients go: f32 like the flat tensor from `dflat` on, and f64 on each batch's scale from `dscale` on.
    pub(in crate::candle) fn gradients(&self, dflat: Pointer, dscale: Pointer) -> DeviceGradients {
        let scales = vec![0.0; 1 + self.separate.len()];
        let place = self.problem(dflat, 0, 0, &scales);
        let of = |batch: &DeviceBatch, number: usize| DeviceGradients {
            dsimilarity: batch.similarity,
            dscale: dscale + 8 * number as Pointer,
            dweights: batch.gates.iter().map(|gate| gate.weights).collect(),
            groups: vec![],
        };
        let groups = match &place.groups {
            DeviceGroups::Separate(batches) => batches.iter().enumerate().map(|(g, batch)| of(batch, g + 1)).collect(),
            DeviceGroups::Ids { .. } => vec![],
        };
        DeviceGradients { groups, ..of(&place.batch, 0) }
    }

    /// Where in the flat tensor each batch's scale stands.
    pub(in crate::candle) fn scales_at(&self) -> Vec<usize> {
        let len = |batch: &Shapes| batch.gates.iter().map(|gate| gate.rows * gate.experts).sum::<usize>();
        let place = |begin: &mut usize, batch: &Shapes| {
            let at = *begin + batch.samples * batch.samples;
            *begin = at + 1 + len(batch);
            Some(at)
        };
        self.batches().scan(0, place).collect()
    }

    /// Calls `read` with the groups without their numbers: who is in which.
    pub(in crate::candle) fn members<R>(&self, read: impl FnOnce(&Groups<'_, f32>) -> R) -> R {
        let empty = |batch: &Shapes| FolBatch { similarity: &[], scale: 0.0, samples: batch.samples, gates: &[] };
        let separate: Vec<_> = self.separate.iter().map(empty).collect();
        match &self.ids {
            Some((ids, count)) => read(&Groups::Ids { ids, count: *count }),
            None => read(&Groups::Separate(&separate)),
        }
    }
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    // SAFETY: the buffers are as long as they have to be, and live on.
    #![allow(unsafe_code)]

    use super::*;
    use crate::candle::fol::GateShape;
    use crate::gpu::driver::emulated::{Emulated, Settings};
    use crate::gpu::driver::{Arch, Driver};
    use crate::gpu::fol::{Memory, backward, forward, read_state};
    use crate::gpu::session::Session;
    use crate::{Fol, FolConfig, FolGradients, Layout};
    use std::sync::Arc;

    fn shapes(samples: usize, mask: bool) -> Shapes {
        let rows = 3 * samples;
        let row_mask = mask.then(|| (0..rows).map(|row| row % 4 != 3).collect());
        let token = GateShape { rows, experts: 5, layout: Layout::SamplesFirst, row_mask };
        Shapes {
            samples,
            gates: vec![token, GateShape { rows: samples, experts: 3, layout: Layout::TokensFirst, row_mask: None }],
        }
    }

    fn flattened(found: FolGradients<f32>) -> Vec<f32> {
        let own = [&found.dsimilarity[..], &[found.dscale as f32], &found.dweights.concat()].concat();
        own.into_iter().chain(found.groups.into_iter().flat_map(flattened)).collect()
    }

    fn assert_close(what: &str, got: &[f32], want: &[f32], bound: f64) {
        let norm = |of: &[f32]| of.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let gap: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
        let error = norm(&gap) / norm(want);
        assert!(got.len() == want.len() && error <= bound, "{what}: {error:e} is above {bound:e}");
    }

    fn agrees(frame: &Frame, config: FolConfig) {
        let len: usize = frame.batches().map(|b| b.samples * b.samples + 1 + 18 * b.samples).sum();
        let flat: Vec<f32> = (0..len).map(|i| ((i * 7919) as f32 * 0.618_034).fract() * 2.0 - 1.0).collect();
        let scales: Vec<f64> = frame.scales_at().into_iter().map(|at| flat[at].into()).collect();
        let loss = Fol::new(config.clone()).unwrap();
        let (want, found) = frame.lend(&flat, |batch, groups| {
            let state = loss.forward(batch, groups).unwrap();
            let found = loss.backward(batch, groups, &state, 1.0).unwrap();
            (state, found)
        });

        let driver: Arc<dyn Driver> = Arc::new(Emulated::new(Settings::new(3, Arch(80))));
        let session = Session::new(&driver).unwrap();
        let (at, masks, ids) = (
            session.upload(&flat).unwrap(),
            session.upload(&frame.masks()).unwrap(),
            session.upload(&frame.narrow_ids()).unwrap(),
        );
        let problem = frame.problem(at.pointer(), masks.pointer(), ids.pointer(), &scales);
        let offsets = Memory::new(driver.facts(), &config, &problem, 0).unwrap();
        let block = session.upload(&vec![0u8; offsets.bytes]).unwrap();
        let memory = Memory::new(driver.facts(), &config, &problem, block.pointer()).unwrap();
        let (dflat, dscale) = (session.upload(&vec![0f32; len]).unwrap(), session.empty::<f64>(scales.len()).unwrap());
        let gradients = frame.gradients(dflat.pointer(), dscale.pointer());
        unsafe { forward(&session.queue(), &config, &problem, &memory).unwrap() };
        let state = frame.members(|groups| read_state(groups, &problem, &offsets, |to| block.read(to))).unwrap();
        unsafe { backward(&session.queue(), &config, &problem, &memory, 1.0, &gradients).unwrap() };

        assert!((state.terms.total - want.terms.total).abs() <= 1e-5 * want.terms.total.abs(), "{:?}", state.terms);
        assert_eq!((state.warnings, state.groups.len()), (want.warnings, want.groups.len()));
        let (mut got, d) = (dflat.to_vec().unwrap(), dscale.to_vec().unwrap());
        let given = if config.group_gradient { scales.len() } else { 1 };
        for (&at, d) in frame.scales_at().iter().zip(d).take(given) {
            got[at] = d as f32;
        }
        let mut want = flattened(found);
        want.resize(len, 0.0);
        assert_close("dflat", &got, &want, 1e-4);
    }

    #[test]
    fn a_loss_in_a_flat_tensor_gives_what_the_cpu_gives() {
        let strong = FolConfig { lambda_distance: 2.0, lambda_dispersion: 3.0, ..FolConfig::paper() };
        for group_gradient in [false, true] {
            let config = FolConfig { group_gradient, ..strong.clone() };
            let ids = Some((vec![0, 1, -1, 0, 1, 1], 2));
            agrees(&Frame { batch: shapes(6, true), separate: vec![], ids }, config.clone());
            let separate = vec![shapes(4, true), shapes(7, false)];
            agrees(&Frame { batch: shapes(5, false), separate, ids: None }, config);
        }
    }
}
