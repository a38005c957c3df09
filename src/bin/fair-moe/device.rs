//! Where a subcommand computes.

use std::str::FromStr;

/// A device that this version can compute on.
#[derive(Clone, Copy, Debug)]
pub enum Device {
    /// The CPU.
    Cpu,
}

impl Device {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
        }
    }
}

impl FromStr for Device {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.split([':', '@']).next() {
            _ if s == "cpu" => Ok(Device::Cpu),
            Some(kind @ ("cuda" | "emulated")) => Err(format!("{kind} is not there yet; the device can only be cpu")),
            _ => Err("a device is cpu, cuda[:N] or emulated[:SEED][@ARCH]".into()),
        }
    }
}
