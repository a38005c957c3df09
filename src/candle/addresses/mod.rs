//! From addresses and shapes, as candle's tensors have them on a device, to launches. Nothing here knows of candle or of cudarc, so that
//! it is tested on the emulation.

mod fol;
pub(super) mod moe;
