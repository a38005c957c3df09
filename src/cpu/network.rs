//! The tensors of one expert, out of those of all.

use crate::config::MoeConfig;
use crate::parameters::{Param, Parameters};

/// One expert's tensors; those that it does not have are empty.
pub struct Network<S> {
    pub glu_weight: S,
    pub glu_bias: S,
    pub fc1_weight: S,
    pub fc1_bias: S,
    pub fc2_weight: S,
    pub fc2_bias: S,
}

const ROUTED: [Param; 6] = [
    Param::ExpertsGluWeight,
    Param::ExpertsGluBias,
    Param::ExpertsFc1Weight,
    Param::ExpertsFc1Bias,
    Param::ExpertsFc2Weight,
    Param::ExpertsFc2Bias,
];
const SHARED: [Param; 6] = [
    Param::SharedGluWeight,
    Param::SharedGluBias,
    Param::SharedFc1Weight,
    Param::SharedFc1Bias,
    Param::SharedFc2Weight,
    Param::SharedFc2Bias,
];

/// The E routed experts in order, then the shared one where there is one. `split` cuts a stacked tensor into equal parts.
fn networks<S>(config: &MoeConfig, mut split: impl FnMut(Param, usize) -> Vec<S>) -> Vec<Network<S>> {
    let mut all = Vec::with_capacity(config.experts.count + 1);
    let shared = if config.shared_expert { 1 } else { 0 };
    for (params, count) in [(ROUTED, config.experts.count), (SHARED, shared)] {
        let parts = params.map(|p| split(p, count));
        let [glu_weight, glu_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias] = parts.map(Vec::into_iter);
        let (glu, fc1, fc2) = (glu_weight.zip(glu_bias), fc1_weight.zip(fc1_bias), fc2_weight.zip(fc2_bias));
        all.extend(glu.zip(fc1).zip(fc2).map(|((glu, fc1), fc2)| Network {
            glu_weight: glu.0,
            glu_bias: glu.1,
            fc1_weight: fc1.0,
            fc1_bias: fc1.1,
            fc2_weight: fc2.0,
            fc2_bias: fc2.1,
        }));
    }
    all
}

/// To read.
pub fn views<'a, T>(config: &MoeConfig, parameters: &Parameters<&'a [T]>) -> Vec<Network<&'a [T]>> {
    networks(config, |p, count| {
        let (whole, each) = (parameters[p], p.len(config) / count.max(1));
        (0..count).map(|e| &whole[e * each..][..each]).collect()
    })
}

/// To write.
pub fn views_mut<'a, T>(config: &MoeConfig, parameters: &'a mut Parameters<&mut [T]>) -> Vec<Network<&'a mut [T]>> {
    let mut whole = parameters.reborrow();
    networks(config, |p, count| {
        let lengths = std::iter::repeat_n(p.len(config) / count.max(1), count);
        split_mut(std::mem::take(&mut whole[p]), lengths)
    })
}

/// Cuts consecutive parts of the given lengths off a slice.
pub fn split_mut<T>(mut rest: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    lengths.map(|n| rest.split_off_mut(..n).unwrap_or_default()).collect()
}
