//! The machine's ceilings, and where they are from.

use super::ON_GPU;
use crate::output::{announce, announced, say};
use fair_moe::bench::{Ceilings, Times, card_of, empty_graph};
use fair_moe::gpu::driver::Facts;
use fair_moe::{DType, Device, Element, Result};
use std::io::Write;

/// Those that there are; shares are of the first.
#[derive(Default)]
pub struct Known {
    /// With where each is from.
    pub all: Vec<(String, Ceilings)>,
    /// What the layer's own kernels reached on a GPU in this run.
    pub reached: Option<Ceilings>,
    /// What a graph of one empty kernel takes there.
    pub empty: Option<Times>,
}

impl Known {
    /// What a share of anything is a share of, as far as it is known before anything is measured: nothing of a GPU that nobody measured.
    pub fn of<T: Element>(device: &Device, out: &mut dyn Write) -> Result<Self> {
        let mut known = Self::default();
        let Some(driver) = device.driver() else {
            let from = "a product of two 2048 x 2048 matrices and a copy, in this run";
            known.add(from, Ceilings::measure::<T>(), T::DTYPE, out)?;
            return Ok(known);
        };
        if driver.facts().driver == 0 {
            known.add_card(&card_of(driver.facts()), T::DTYPE, out)?;
            return Ok(known);
        }
        if let Some(others) = Ceilings::of_gpu(&driver.facts().name, T::DTYPE) {
            known.add("as others saw a GPU of this name reach", others, T::DTYPE, out)?;
        }
        Ok(known)
    }

    /// All of them.
    pub fn complete<T: Element>(&mut self, device: &Device, out: &mut dyn Write) -> Result<()> {
        if device.driver().is_none() || self.reached.is_some() {
            return Ok(());
        }
        announce(format_args!("bench {}: ceilings", T::DTYPE));
        let (empty, reached) = (empty_graph(device, ON_GPU), Ceilings::reached::<T>(device, ON_GPU));
        announced();
        self.empty = empty?;
        if let Some(empty) = self.empty {
            say!(out, "a graph of one empty kernel: {:.4} ms", empty.median.as_secs_f64() * 1e3)?;
        }
        self.reached = reached?;
        let from = "a dense product and a copy by the layer's own kernels, in this run";
        self.reached.map_or(Ok(()), |reached| self.add(from, reached, T::DTYPE, out))
    }

    /// What predictions take a card to reach.
    pub fn add_card(&mut self, card: &Facts, dtype: DType, out: &mut dyn Write) -> Result<()> {
        let from = format!("as predictions take an NVIDIA {} to reach", card.name);
        self.add(&from, Ceilings::of_card(card, dtype), dtype, out)
    }

    /// Those that shares are of.
    pub fn first(&self) -> Option<Ceilings> {
        self.all.first().map(|first| first.1)
    }

    fn add(&mut self, from: &str, ceilings: Ceilings, dtype: DType, out: &mut dyn Write) -> Result<()> {
        let (flops, bytes) = (ceilings.flops_per_second / 1e12, ceilings.bytes_per_second / 1e9);
        self.all.push((from.to_owned(), ceilings));
        say!(out, "ceilings: {flops:.3} TFLOP/s in {dtype}, copies {bytes:.1} GB/s: {from}")
    }
}
