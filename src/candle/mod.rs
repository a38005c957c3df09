//! candle operations with gradients for the layer and the loss, on candle's CPU device; with the feature `candle-cuda` on its CUDA device
//! too, on candle's own stream and in candle's own memory.
//!
//! That feature has candle's own needs: nvcc to build (without a GPU at hand `CUDA_COMPUTE_CAP=90` says what for; with a toolkit newer than
//! cudarc knows, `CUDARC_CUDA_VERSION=13000`), and CUDA's libraries to link and to start. Our own kernels are compiled by NVRTC all the same.
//!
//! candle's own operations take at most three tensors and give one. So the parameters of one layer live in one flat `Var`, in the
//! order of [`crate::Param::ALL`].

#[cfg(any(feature = "candle-cuda", all(test, feature = "emulate")))]
mod addresses;
#[cfg(feature = "candle-cuda")]
mod cuda;
mod fol;
mod moe;
pub(crate) mod values;

pub use fol::{FolInput, FolLoss, GateTensor, TensorGroups, fol};
pub use moe::{MoeOutput, MoeRows, Number, moe};

use crate::{Device, Error};

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Error::Refused(format!("candle: {e}"))
    }
}

/// An error of this crate where candle wants one of its own.
pub(crate) fn wrap(e: Error) -> candle_core::Error {
    candle_core::Error::msg(e)
}

/// Where candle has the tensors of a whole model, which is on the device of that name: `cpu` or `cuda[:N]`.
///
/// # Errors
/// When the name is another, and as [`device`].
pub fn device_named(name: &str) -> crate::Result<candle_core::Device> {
    match name.split([':', '@']).next() {
        Some("emulated") => Err(Error::config("the device of a model", "cpu or cuda[:N]", name)),
        #[cfg(not(feature = "candle-cuda"))]
        Some("cuda") => Err(no_gpu(name)),
        _ => device(&name.parse()?),
    }
}

/// Where candle has the tensors of a whole model, which is on the best device: the first GPU, else the CPU. Without the feature
/// `candle-cuda` that is always the CPU.
pub fn best_device() -> candle_core::Device {
    let best = if cfg!(feature = "candle-cuda") { Device::best().0 } else { Device::cpu() };
    device(&best).unwrap_or(candle_core::Device::Cpu)
}

/// Where candle has the tensors of what computes on that device: of a GPU in its memory, of the CPU and of an emulation in the host's.
///
/// # Errors
/// When the device is a GPU and this build has no feature `candle-cuda`, or candle cannot use it.
pub fn device(device: &Device) -> crate::Result<candle_core::Device> {
    let Some(number) = device.gpu() else { return Ok(candle_core::Device::Cpu) };
    #[cfg(feature = "candle-cuda")]
    return Ok(candle_core::Device::new_cuda(number)?);
    #[cfg(not(feature = "candle-cuda"))]
    Err(no_gpu(&format!("cuda:{number}")))
}

#[cfg(not(feature = "candle-cuda"))]
fn no_gpu(name: &str) -> Error {
    Error::Refused(format!(
        "tensors on {name} need the feature `candle-cuda`, which this build does not have; the model trains on the CPU"
    ))
}
