//! weight = probability of a chosen expert, over their sum where the layer renormalises; then in each (sample, expert), or in each
//! expert over the batch, only the C largest weights stay. Ties: the lowest token, then the lowest sample.

use super::gate::higher_first;
use crate::config::{CapacityScope, MoeConfig};
use crate::error::Result;
use crate::moe::{MoeInput, NO_PAIR, Routing, Upstream};

/// weights, and the list of kept pairs.
pub fn forward(config: &MoeConfig, input: &MoeInput<'_, f64>, routing: &mut Routing<f64>) -> Result<()> {
    let (rows, experts, k) = (input.rows(), config.experts.count, config.top_k);
    routing.weights = vec![0.0; rows * experts];
    for row in (0..rows).filter(|&row| input.is_routed(row)) {
        let chosen = &routing.chosen[row * k..][..k];
        let total = chosen_sum(config, routing, row);
        for &e in chosen {
            routing.weights[row * experts + e as usize] = routing.probabilities[row * experts + e as usize] / total;
        }
    }

    let mut kept = vec![false; rows * experts];
    let (token_stride, sample_stride) = input.layout.strides(input.tokens, input.samples);
    let in_order = |samples: std::ops::Range<usize>| {
        let row = move |t, b| t * token_stride + b * sample_stride;
        (0..input.tokens).flat_map(move |t| samples.clone().map(move |b| row(t, b))).collect::<Vec<usize>>()
    };
    let scopes: Vec<Vec<usize>> = match config.capacity_scope {
        CapacityScope::Sample => (0..input.samples).map(|b| in_order(b..b + 1)).collect(),
        CapacityScope::Batch => vec![in_order(0..input.samples)],
    };
    let capacity = config.capacity_of(input.tokens, input.samples)?.unwrap_or(rows);
    for scope in &scopes {
        for e in 0..experts {
            let chose = |&&row: &&usize| input.is_routed(row) && routing.chosen[row * k..][..k].contains(&(e as u32));
            let mut candidates: Vec<usize> = scope.iter().filter(chose).copied().collect();
            candidates.sort_by(|&a, &b| higher_first(routing.weights[a * experts + e], routing.weights[b * experts + e]));
            candidates.iter().take(capacity).for_each(|row| kept[row * experts + e] = true);
        }
    }
    routing.weights.iter_mut().zip(&kept).filter(|(_, kept)| !**kept).for_each(|(w, _)| *w = 0.0);

    routing.row_pairs = vec![NO_PAIR; rows * k];
    routing.expert_offsets = vec![0];
    for e in 0..experts {
        for row in (0..rows).filter(|&row| input.is_needed(row) && kept[row * experts + e]) {
            let choice = routing.chosen[row * k..][..k].iter().position(|&c| c as usize == e).unwrap_or(0);
            routing.row_pairs[row * k + choice] = routing.pair_row.len() as u32;
            routing.pair_row.push(row as u32);
            routing.pair_weight.push(routing.weights[row * experts + e]);
        }
        routing.expert_offsets.push(routing.pair_row.len());
    }
    Ok(())
}

/// What a row's chosen probabilities are divided by.
fn chosen_sum(config: &MoeConfig, routing: &Routing<f64>, row: usize) -> f64 {
    let (experts, k) = (config.experts.count, config.top_k);
    let chosen = routing.chosen[row * k..][..k].iter();
    if config.renormalise { chosen.map(|&e| routing.probabilities[row * experts + e as usize]).sum() } else { 1.0 }
}

/// The gradient on the logits `[N, E]`: `dpair` `[P]` is what the experts say of each pair's weight.
pub fn backward(config: &MoeConfig, routing: &Routing<f64>, upstream: &Upstream<'_, f64>, dpair: &[f64]) -> Vec<f64> {
    let (experts, k) = (config.experts.count, config.top_k);
    let mut dlogits = vec![0.0; routing.logits.len()];
    for row in 0..routing.logits.len() / experts {
        let at = row * experts;
        let chosen = &routing.chosen[row * k..][..k];
        let mut dweight = vec![0.0; experts];
        for (choice, &e) in chosen.iter().enumerate() {
            let e = e as usize;
            // A weight of 0 was dropped, or is 0 by itself: then its probability is 0, and takes every gradient away below.
            if routing.weights[at + e] != 0.0 {
                dweight[e] += upstream.dweights.map_or(0.0, |g| g[at + e]);
            }
            if let Some(g) = dpair.get(routing.row_pairs[row * k + choice] as usize) {
                dweight[e] += g;
            }
        }
        let probabilities = &routing.probabilities[at..][..experts];
        let total = chosen_sum(config, routing, row);
        // d weight_e / d p_j = (δ_ej - weight_e where renormalised) / total, weights before capacity.
        let common: f64 = match config.renormalise {
            true => chosen.iter().map(|&e| dweight[e as usize] * (probabilities[e as usize] / total)).sum(),
            false => 0.0,
        };
        let mut dprobability = upstream.dprobabilities.map_or(vec![0.0; experts], |g| g[at..][..experts].to_vec());
        for &e in chosen {
            dprobability[e as usize] += (dweight[e as usize] - common) / total;
        }
        let mean: f64 = super::dot(probabilities, &dprobability);
        for e in 0..experts {
            dlogits[at + e] = probabilities[e] * (dprobability[e] - mean) + upstream.dlogits.map_or(0.0, |g| g[at + e]);
        }
    }
    dlogits
}
