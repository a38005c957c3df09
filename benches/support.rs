//! What the benches share: a small shape of the work that `fair-moe bench` measures at full size.
#![allow(dead_code, reason = "each bench uses its own part")]

use criterion::Criterion;
use fair_moe::bench::{LayerWork, LossWork, Pass, Shape, Stage, Work};
use fair_moe::{DType, Element};
use half::bf16;
use std::time::Duration;

/// Two samples through the text tower's layer.
const SAMPLES: usize = 2;

fn shape() -> Shape {
    "vit-b16-text-fresh".parse().expect("a shape that exists")
}

fn bench(stage: Stage, dtype: DType, work: &mut dyn Work) {
    let criterion = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1)).configure_from_args();
    let mut criterion = criterion.warm_up_time(Duration::from_millis(300));
    let parts = work.parts();
    for pass in [Pass::Forward, Pass::Backward].into_iter().filter(|&pass| parts.contains(&(stage, pass))) {
        let name = format!("{} {} {dtype}", stage.name(), pass.name());
        criterion.bench_function(&name, |b| b.iter(|| work.run((stage, pass)).expect("work of the right shape")));
    }
    criterion.final_summary();
}

/// A stage of the layer, or the layer, in f32 and in bf16.
pub fn layer(stage: Stage) {
    fn in_dtype<T: Element>(stage: Stage) {
        bench(stage, T::DTYPE, &mut LayerWork::<T>::new(&shape(), SAMPLES).expect("a shape that fits"));
    }
    in_dtype::<f32>(stage);
    in_dtype::<bf16>(stage);
}

/// A stage of the loss, or the loss, in f32, on 32 samples.
pub fn loss(stage: Stage) {
    bench(stage, DType::F32, &mut LossWork::<f32>::new(&shape(), 32).expect("a shape that fits"));
}
