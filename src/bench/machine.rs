//! What this machine is, and the fastest that it was seen to compute and to copy.

use super::device::driver_of;
use super::{DeviceLayer, Measurement, Pass, Shape, Stage};
use crate::cpu::gemm::{Matrix, product};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::gpu::plan::is_called;
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// The fastest that a machine can be: what a share of the floor is a share of.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Of dense products.
    pub flops_per_second: f64,
    /// Of copies, each byte counted as read and as written.
    pub bytes_per_second: f64,
}

impl Ceilings {
    /// A CPU's, measured here and now on all threads: the fastest of ten products of two 2048 x 2048 matrices in `T`, and of ten copies
    /// of 64 MiB.
    pub fn measure<T: Element>() -> Self {
        const SIDE: usize = 2048;
        let a = vec![T::from_f64(0.5); SIDE * SIDE];
        let mut c = vec![T::default(); SIDE * SIDE];
        let square = |data| Matrix::new(data, SIDE, SIDE);
        let seconds = fastest(|| product(square(&a), square(&a), &[], &mut c));
        let flops_per_second = 2.0 * (SIDE * SIDE * SIDE) as f64 / seconds;

        const PART: usize = 1 << 20;
        let (from, mut to) = (vec![1u8; 64 * PART], vec![0u8; 64 * PART]);
        let seconds = fastest(|| {
            to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
        });
        Self { flops_per_second, bytes_per_second: 2.0 * from.len() as f64 / seconds }
    }
}

impl Ceilings {
    /// What a GPU of that name was seen to reach in long products and copies (f32: what its data sheet says of plain multiply-adds);
    /// none for one that nobody has measured.
    pub fn of_gpu(name: &str, dtype: DType) -> Option<Self> {
        let flops_per_second = if dtype.bytes() == 2 { 790e12 } else { 67e12 };
        is_called(name, "H200").then_some(Self { flops_per_second, bytes_per_second: 4.3e12 })
    }
}

impl Ceilings {
    /// What this library's own kernels reach on a device, measured here and now: the products of one expert that takes 32768 rows, 4096
    /// wide both ways, and the sum behind it, which of one expert is a copy of 256 MiB or more. None for an emulated device.
    ///
    /// # Errors
    /// When the device is the CPU, has no room, or fails.
    pub fn reached<T: Element>(device: &Device, budget: Duration) -> Result<Option<Self>> {
        if driver_of(device)?.facts().driver == 0 {
            return Ok(None);
        }
        Self::reached_with::<T>(device, &Shape::dense(256, 128, 4096), budget)
    }

    fn reached_with<T: Element>(device: &Device, shape: &Shape, budget: Duration) -> Result<Option<Self>> {
        let layer = DeviceLayer::<T>::new(shape, shape.samples_or(1), device)?;
        let products = layer.measure_part((Stage::Experts, Pass::Forward), budget)?;
        let copy = layer.measure_part((Stage::Combine, Pass::Forward), budget)?;
        let seconds = |of: &Measurement| of.times.map(|times| times.median.as_secs_f64());
        let both = seconds(&products).zip(seconds(&copy));
        Ok(both.map(|(product_seconds, copy_seconds)| Self {
            flops_per_second: products.cost.flops / product_seconds,
            bytes_per_second: copy.cost.bytes / copy_seconds,
        }))
    }
}

/// The seconds of the fastest of ten runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let times = (0..10).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// The processor's name, where the operating system tells it.
pub fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The processor's instruction sets that decide how fast the layer runs.
pub fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let sets = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let sets = [("neon", true), ("bf16", std::arch::is_aarch64_feature_detected!("bf16"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let sets: [(&str, bool); 0] = [];
    sets.into_iter().filter(|set| set.1).map(|set| set.0).collect()
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use super::*;

    /// One expert, all rows: P = N, and no time comes of a device that has no clock.
    #[test]
    fn a_dense_layer_gives_products_and_copies_and_no_speed_where_there_is_no_clock() {
        let (device, shape) = ("emulated".parse().unwrap(), Shape::dense(8, 4, 32));
        let layer = DeviceLayer::<half::bf16>::new(&shape, 4, &device).unwrap();
        assert_eq!(layer.pairs(), 32);
        let products = layer.measure_part((Stage::Experts, Pass::Forward), Duration::ZERO).unwrap();
        assert_eq!((products.cost.flops, products.launches), (2.0 * 2.0 * 32.0 * 32.0 * 32.0, Some(2)));
        let copy = layer.measure_part((Stage::Combine, Pass::Forward), Duration::ZERO).unwrap();
        assert_eq!((copy.cost.bytes, copy.launches), (2.0 * 32.0 * 32.0 * 2.0, Some(1)));
        assert!(Ceilings::reached_with::<half::bf16>(&device, &shape, Duration::ZERO).unwrap().is_none());
    }
}
