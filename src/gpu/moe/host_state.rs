//! A layer's state between the host and a device.

use super::{Resident, State, StatePart, state_layout};
use crate::dtype::Element;
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::experts;
use crate::moe::{MoeState, NO_PAIR, Routing};
use bytemuck::Pod;

impl<T: Element> Resident<T> {
    /// Reads what was routed where, and where `saved` is given what backward needs of the experts.
    pub fn download_state(
        &self,
        state: &State<Buffer<u8>>,
        routing: &mut Routing<T::Wide>,
        saved: Option<(&mut Vec<T>, &mut Vec<T>)>,
    ) -> Result<()> {
        let (config, n) = (&self.config, self.rows());
        let (e, k, f) = (config.experts.count, config.top_k, config.experts.width);
        read(&state[StatePart::Hidden], n * config.gate.hidden.map_or(0, |h| h.width), &mut routing.hidden)?;
        read(&state[StatePart::Logits], n * e, &mut routing.logits)?;
        read(&state[StatePart::Probabilities], n * e, &mut routing.probabilities)?;
        read(&state[StatePart::Weights], n * e, &mut routing.weights)?;
        read(&state[StatePart::Chosen], n * k, &mut routing.chosen)?;
        // -1 is NO_PAIR.
        read(&state[StatePart::RowPairs], n * k, &mut routing.row_pairs)?;
        let mut offsets = vec![];
        read::<u32>(&state[StatePart::ExpertOffsets], e + 2, &mut offsets)?;
        let (pairs, all) = (offsets[e] as usize, offsets[e + 1] as usize);
        routing.expert_offsets = offsets[..=e].iter().map(|&at| at as usize).collect();
        read(&state[StatePart::PairRow], pairs, &mut routing.pair_row)?;
        read(&state[StatePart::PairWeight], pairs, &mut routing.pair_weight)?;
        let Some((inner, glu)) = saved else { return Ok(()) };
        read(&state[StatePart::Inner], all * f, inner)?;
        if experts::folds(config, T::DTYPE) {
            // A weight of 0 has left nothing to divide.
            let unfold = |v: f64, weight: f64| if weight > 0.0 { v / weight } else { 0.0 };
            each_pair(inner, &routing.pair_weight, f, unfold);
        }
        read(&state[StatePart::Glu], if config.experts.gated { all * f } else { 0 }, glu)
    }

    /// A state that a forward pass left, on whichever device.
    pub fn upload_state(&self, state: &MoeState<T>) -> Result<State<Buffer<u8>>> {
        let routing = &state.routing;
        let has_shared = self.config.shared_expert;
        let shared: &[u32] = if has_shared { &self.needed_rows } else { &[] };
        let pairs = routing.pairs();
        let mut offsets: Vec<u32> = routing.expert_offsets.iter().map(|&at| at as u32).collect();
        offsets.push((pairs + shared.len()) as u32);
        let mut shared_pairs = vec![NO_PAIR; self.rows()];
        for (i, &row) in shared.iter().enumerate() {
            shared_pairs[row as usize] = (pairs + i) as u32;
        }
        let tile_rows = self.plan()?.rows;
        let room = state_layout(&self.config, T::DTYPE, self.tokens, self.samples, self.needed_rows.len(), true)?;
        let pair_row = [&routing.pair_row, shared].concat();
        let mut pair_weight = routing.pair_weight.clone();
        pair_weight.resize(pair_row.len(), T::Wide::from_f64(1.0));
        State::try_from_fn(|part| match part {
            StatePart::Hidden if self.config.gate.hidden.is_none() => self.session.empty(0),
            StatePart::SharedPairs if !has_shared => self.session.empty(0),
            StatePart::Glu if !self.config.experts.gated => self.session.empty(0),
            StatePart::Hidden => self.write(&routing.hidden),
            StatePart::Logits => self.write(&routing.logits),
            StatePart::Probabilities => self.write(&routing.probabilities),
            StatePart::Chosen => self.write(&routing.chosen),
            StatePart::Weights => self.write(&routing.weights),
            StatePart::RowPairs => self.write(&routing.row_pairs),
            StatePart::SharedPairs => self.write(&shared_pairs),
            StatePart::ExpertOffsets => self.write(&offsets),
            StatePart::PairRow => self.write(&pair_row),
            StatePart::PairWeight => self.write(&pair_weight),
            StatePart::Tiles => self.write(&tiles(&offsets, tile_rows)),
            StatePart::Inner if experts::folds(&self.config, T::DTYPE) => {
                let mut hidden = state.inner.clone();
                let fold = |v: f64, weight: f64| if v <= 0.0 { 0.0 } else { v * weight };
                each_pair(&mut hidden, &pair_weight, self.config.experts.width, fold);
                self.write_into(&hidden, room[part])
            }
            StatePart::Inner => self.write_into(&state.inner, room[part]),
            StatePart::Glu => self.write_into(&state.glu, room[part]),
        })
    }

    /// With room for as many pairs as there may be, for tensor maps are of so many.
    fn write_into(&self, values: &[T], bytes: usize) -> Result<Buffer<u8>> {
        let mut all = values.to_vec();
        all.resize((bytes / size_of::<T>()).max(values.len()), T::zeroed());
        self.write(&all)
    }

    /// One element at least: of what has no pairs there is still an address.
    fn write<V: Pod>(&self, values: &[V]) -> Result<Buffer<u8>> {
        match values.is_empty() {
            true => self.session.upload(&[0u8; 8]),
            false => self.session.upload(bytemuck::cast_slice(values)),
        }
    }
}

/// What becomes of each element of `[P, F]`, by its pair's weight; pairs past the last weight are the shared expert's.
fn each_pair<T: Element>(values: &mut [T], weights: &[T::Wide], width: usize, of: impl Fn(f64, f64) -> f64) {
    for (pair, row) in values.chunks_mut(width).enumerate() {
        let weight = weights.get(pair).map_or(1.0, |weight| weight.to_f64());
        row.iter_mut().for_each(|v| *v = T::from_f64(of(v.to_f64(), weight)));
    }
}

/// The number of tiles, then (expert, first pair) of each.
fn tiles(offsets: &[u32], tile_rows: usize) -> Vec<u32> {
    let of_expert = |(e, at): (usize, &[u32])| (at[0]..at[1]).step_by(tile_rows).map(move |first| [e as u32, first]);
    let tiles: Vec<[u32; 2]> = offsets.windows(2).enumerate().flat_map(of_expert).collect();
    [&[tiles.len() as u32], tiles.as_flattened()].concat()
}

fn read<V: Pod>(from: &Buffer<u8>, len: usize, to: &mut Vec<V>) -> Result<()> {
    to.clear();
    to.resize(len, V::zeroed());
    from.read(bytemuck::cast_slice_mut(to))
}
