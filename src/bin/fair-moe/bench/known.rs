//! The machine's ceilings, and where they are from.

use super::BUDGET;
use crate::output::say;
use fair_moe::bench::Ceilings;
use fair_moe::{Device, Element, Result};
use std::io::Write;

/// Those that there are; shares are of the first.
#[derive(Default)]
pub struct Known {
    /// With where each is from.
    pub all: Vec<(String, Ceilings)>,
    /// What the layer's own kernels reached on a GPU in this run.
    pub reached: Option<Ceilings>,
}

impl Known {
    /// What a share of anything is a share of, as far as it has to be known before anything is measured.
    pub fn of<T: Element>(device: &Device, out: &mut dyn Write) -> Result<Self> {
        let mut known = Self::default();
        let Some(driver) = device.driver() else {
            known.add::<T>("a product of two 2048 x 2048 matrices and a copy, in this run", Ceilings::measure::<T>(), out)?;
            return Ok(known);
        };
        match Ceilings::of_gpu(&driver.facts().name, T::DTYPE) {
            Some(others) => known.add::<T>("as others saw a GPU of this name reach", others, out)?,
            None => known.complete::<T>(device, out)?,
        }
        Ok(known)
    }

    /// All of them.
    pub fn complete<T: Element>(&mut self, device: &Device, out: &mut dyn Write) -> Result<()> {
        if device.driver().is_none() || self.reached.is_some() {
            return Ok(());
        }
        self.reached = Ceilings::reached::<T>(device, BUDGET)?;
        let from = "a dense product and a copy by the layer's own kernels, in this run";
        self.reached.map_or(Ok(()), |reached| self.add::<T>(from, reached, out))
    }

    fn add<T: Element>(&mut self, from: &str, ceilings: Ceilings, out: &mut dyn Write) -> Result<()> {
        let (flops, bytes) = (ceilings.flops_per_second / 1e12, ceilings.bytes_per_second / 1e9);
        self.all.push((from.to_owned(), ceilings));
        say!(out, "ceilings: {flops:.3} TFLOP/s in {}, copies {bytes:.1} GB/s: {from}", T::DTYPE)
    }
}
