//! candle operations with gradients for the layer and the loss, on candle's CPU device.
//!
//! candle's own operations take at most three tensors and give one. So the parameters of one layer live in one flat `Var`, in the
//! order of [`crate::Param::ALL`], and what a layer returns beside y is cut out of one flat output.

mod fol;
mod moe;
mod values;

pub use fol::{FolInput, FolLoss, GateTensor, TensorGroups, fol};
pub use moe::{MoeOutput, MoeRows, Number, moe};

impl From<candle_core::Error> for crate::Error {
    fn from(e: candle_core::Error) -> Self {
        crate::Error::Refused(format!("candle: {e}"))
    }
}

/// An error of this crate where candle wants one of its own.
pub(crate) fn wrap(e: crate::Error) -> candle_core::Error {
    candle_core::Error::msg(e)
}
