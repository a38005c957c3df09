//! What the safe level refuses before anything is launched.
#![cfg(feature = "cuda")]

use fair_moe::gpu::safe::{BatchLengths, FolLengths, GradientLengths, Lengths};
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

#[test]
fn every_length_of_a_loss_is_checked() {
    let batch = |samples: usize| BatchLengths {
        samples,
        similarity: samples * samples,
        gates: vec![(10, 70 * samples, None), (4, 8 * samples, Some(2 * samples))],
    };
    let right = FolLengths { batches: vec![batch(5), batch(3), batch(0)], ids: Some((5, 2)) };
    assert!(right.check().is_ok());
    let refused = |change: &dyn Fn(&mut FolLengths)| {
        let mut lengths = right.clone();
        change(&mut lengths);
        lengths.check().unwrap_err().to_string()
    };
    for (i, samples) in [5, 3, 0].into_iter().enumerate() {
        assert!(
            refused(&|l| l.batches[i].similarity += 1)
                .contains(&format!("the similarity must have shape [{samples}, {samples}]"))
        );
        assert!(refused(&|l| l.batches[i].gates[0].1 += 1).contains("a gate's weights"));
        assert!(refused(&|l| l.batches[i].gates[1].2 = Some(2 * samples + 1)).contains("a gate's row mask"));
        assert!(refused(&|l| l.batches[i].gates[1].0 = 0).contains("a gate's number of experts"));
    }
    assert!(refused(&|l| l.ids = Some((4, 2))).contains("the group ids must have shape [5]"));

    let gradients = GradientLengths { similarity: 25, scale: 1, weights: vec![350, 40] };
    assert!(batch(5).check_gradients(&gradients).is_ok());
    let refused = |change: &dyn Fn(&mut GradientLengths), word: &str| {
        let mut lengths = gradients.clone();
        change(&mut lengths);
        let said = batch(5).check_gradients(&lengths).unwrap_err().to_string();
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    };
    refused(&|g| g.similarity = 24, "the gradient on the similarity must have shape [5, 5]");
    refused(&|g| g.scale = 0, "the gradient on the scale");
    refused(&|g| g.weights[1] += 1, "a gradient on a gate's weights must have shape [10, 4]");
    refused(&|g| g.weights.truncate(1), "the gradients on gates");
}
