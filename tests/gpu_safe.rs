//! What the safe level refuses before anything is launched.
#![cfg(feature = "cuda")]

use fair_moe::gpu::safe::Lengths;
use fair_moe::{MoeConfig, Param, Parameters};

/// 7 tokens of 3 samples.
fn lengths(config: &MoeConfig) -> Lengths {
    let parameters = Parameters::from_fn(|p: Param| p.len(config));
    Lengths {
        like_x: vec![7 * 3 * config.width; 3],
        masks: vec![21; 2],
        scores: vec![21 * config.experts.count; 3],
        parameters: vec![parameters.clone(), parameters],
    }
}

#[test]
fn every_length_is_checked() {
    let config = MoeConfig::token_paper(8);
    let right = lengths(&config);
    assert!(right.check(&config, 7, 3).is_ok());
    let refused = |change: &dyn Fn(&mut Lengths)| {
        let mut lengths = right.clone();
        change(&mut lengths);
        lengths.check(&config, 7, 3).unwrap_err().to_string()
    };
    for i in 0..3 {
        assert!(refused(&|l| l.like_x[i] += 1).contains("[7, 3, 8] (168 elements), but has 169"));
        assert!(refused(&|l| l.scores[i] -= 1).contains("[7, 3, 10]"));
    }
    assert!(refused(&|l| l.masks[1] = 20).contains("a mask of rows must have shape [7, 3]"));
    for p in Param::ALL {
        for which in 0..2 {
            let said = refused(&|l| l.parameters[which][p] += 1);
            assert!(said.starts_with(p.name()), "{said}");
        }
    }
    assert!(right.check(&config, usize::MAX, 3).unwrap_err().to_string().contains("overflows"));
}
