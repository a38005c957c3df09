//! The tensor maps by which engine `wgmma` brings what lies in memory as it is: weights, and rows of pairs.

use super::Queue;
use super::args::{ExpertMaps, ExpertWeights, TensorMap};
use super::driver::{Pointer, Tiled};
use crate::dtype::DType;
use crate::error::Result;

/// What one product reads by maps; 0: not there.
pub(super) struct Mapped {
    /// `[pairs, pair_width]`, one or two of them.
    pub pairs: [Pointer; 2],
    /// `[E, out, in]`: the weight, and the gating map's; then those of the shared expert.
    pub weights: [[Pointer; 2]; 2],
    /// out, in.
    pub weight: [i32; 2],
    /// E.
    pub count: i32,
    /// F.
    pub pair_width: i32,
}

impl Mapped {
    /// Of fc1, and of glu where there is one.
    pub fn first(experts: &ExpertWeights, shared: &ExpertWeights) -> [[Pointer; 2]; 2] {
        [experts, shared].map(|w| [w.fc1_weight, w.glu_weight])
    }

    /// Of fc2.
    pub fn second(experts: &ExpertWeights, shared: &ExpertWeights) -> [[Pointer; 2]; 2] {
        [experts, shared].map(|w| [w.fc2_weight, 0])
    }

    /// Their maps, for at most `pairs` pairs.
    ///
    /// # Errors
    /// Where an address or a row's bytes are no multiple of 16: see [`super::plan::Plan::without_maps`].
    pub fn maps(&self, queue: &Queue<'_>, dtype: DType, pairs: usize) -> Result<ExpertMaps> {
        let of = |bases: [Pointer; 2], [rows, columns]: [usize; 2], count: usize| -> Result<[TensorMap; 2]> {
            let [first, second] = bases.map(|base| map(queue, dtype, base, [columns, rows, count]));
            Ok([first?, second?])
        };
        let weight = self.weight.map(|n| n as usize);
        Ok(ExpertMaps {
            pairs: of(self.pairs, [pairs, self.pair_width as usize], 1)?,
            experts: of(self.weights[0], weight, self.count as usize)?,
            shared: of(self.weights[1], weight, 1)?,
        })
    }
}

/// In boxes of 64 by 64: rows of 128 bytes.
fn map(queue: &Queue<'_>, dtype: DType, base: Pointer, dims: [usize; 3]) -> Result<TensorMap> {
    if base == 0 || dims.contains(&0) {
        return Ok(TensorMap::default());
    }
    let dims = dims.map(|n| n as u64);
    let row = dims[0] * dtype.bytes() as u64;
    let (strides, box_dims) = ([row, row * dims[1]], [64, 64, 1]);
    queue.driver.tensor_map(&Tiled { dtype, base, dims: &dims, strides: &strides, box_dims: &box_dims, swizzle: true })
}
