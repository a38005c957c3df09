//! Where a layer or a loss computes.

use crate::error::{Error, Result};
use crate::gpu::driver::Driver;
use std::sync::Arc;
use std::{fmt, str::FromStr};

/// The CPU, a GPU, or a GPU's emulation. A copy is the same device.
///
/// ```
/// use fair_moe::Device;
/// let (device, why_no_gpu) = Device::best();
/// assert!(why_no_gpu.is_none() || device.driver().is_none());
/// assert_eq!("cpu".parse::<Device>().unwrap().to_string(), "cpu");
/// ```
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    driver: Option<Arc<dyn Driver>>,
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        Self { name: "cpu".into(), driver: None }
    }

    /// The first GPU; else the CPU, and why it is not a GPU.
    pub fn best() -> (Self, Option<String>) {
        match cuda(0) {
            Ok(device) => (device, None),
            Err(why) => (Self::cpu(), Some(why.to_string())),
        }
    }

    /// Whatever stands behind a driver.
    pub fn of(name: impl Into<String>, driver: Arc<dyn Driver>) -> Self {
        Self { name: name.into(), driver: Some(driver) }
    }

    /// What runs kernels; none: the CPU, which runs none.
    pub fn driver(&self) -> Option<&Arc<dyn Driver>> {
        self.driver.as_ref()
    }

    /// The number of the GPU that it is, if it is one.
    #[cfg(feature = "candle")]
    pub(crate) fn gpu(&self) -> Option<usize> {
        self.name.strip_prefix("cuda:")?.parse().ok()
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::cpu()
    }
}

/// As it is named on the command line.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// `cpu`, `cuda[:N]`, or `emulated[:SEED][@ARCH]` with seed 0 and sm_80 where they are left out.
impl FromStr for Device {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::config("the device", "cpu, cuda[:N] or emulated[:SEED][@ARCH]", name);
        let (plain, arch) = name.split_once('@').map_or((name, None), |(plain, arch)| (plain, Some(arch)));
        let (kind, number) = plain.split_once(':').map_or((plain, None), |(kind, number)| (kind, Some(number)));
        match (kind, arch) {
            ("cpu", None) if number.is_none() => Ok(Self::cpu()),
            ("cuda", None) => cuda(number.unwrap_or("0").parse().map_err(|_| unknown())?),
            ("emulated", _) => emulated(number.unwrap_or("0").parse().map_err(|_| unknown())?, arch.unwrap_or("sm_80")),
            _ => Err(unknown()),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device> {
    let driver = crate::gpu::driver::cuda::Cuda::shared(number)?;
    Ok(Device::of(format!("cuda:{number}"), driver))
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device> {
    Err(Error::Refused(format!("the device cuda:{number} needs the feature `cuda`, which this build does not have")))
}

#[cfg(feature = "emulate")]
fn emulated(seed: u64, arch: &str) -> Result<Device> {
    use crate::gpu::driver::emulated::{Emulated, Settings};
    let arch = arch.parse()?;
    let driver = Emulated::new(Settings::new(seed, arch));
    Ok(Device::of(format!("emulated:{seed}@{arch}"), Arc::new(driver)))
}

#[cfg(not(feature = "emulate"))]
fn emulated(seed: u64, arch: &str) -> Result<Device> {
    let what = format!("the device emulated:{seed}@{arch} needs the feature `emulate`, which this build does not have");
    Err(Error::Refused(what))
}
