//! Capacity by weight in each (sample, expert), or in each expert over the batch; the list of kept pairs; and the masks' way back.

use super::gate::higher_first;
use crate::config::{CapacityScope, MoeConfig};
use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::moe::{MoeInput, NO_PAIR, Routing, Upstream};
use rayon::prelude::*;

/// weights, and the list of kept pairs.
pub fn forward<T: Element>(config: &MoeConfig, input: &MoeInput<'_, T>, routing: &mut Routing<T::Wide>) -> Result<()> {
    let (rows, experts, k) = (input.rows(), config.experts.count, config.top_k);
    routing.weights.clear();
    routing.weights.resize(rows * experts, T::Wide::ZERO);
    for row in (0..rows).filter(|&row| input.is_routed(row)) {
        let probabilities = &routing.probabilities[row * experts..][..experts];
        let chosen = &routing.chosen[row * k..][..k];
        let total = chosen_sum(config, probabilities, chosen);
        chosen.iter().for_each(|&e| routing.weights[row * experts + e as usize] = probabilities[e as usize] / total);
    }
    // `row_pairs` first says which choices are kept, in any way; then which pair each is.
    routing.row_pairs.clear();
    routing.row_pairs.extend((0..rows * k).map(|i| if input.is_routed(i / k) { 0 } else { NO_PAIR }));
    if let Some(capacity) = config.capacity_of(input.tokens, input.samples)? {
        drop_beyond(config, input, routing, capacity);
    }
    list_pairs(config, input, routing);
    Ok(())
}

/// What a row's chosen probabilities are divided by.
fn chosen_sum<W: Float>(config: &MoeConfig, probabilities: &[W], chosen: &[u32]) -> W {
    if config.renormalise { chosen.iter().map(|&e| probabilities[e as usize]).sum() } else { W::ONE }
}

/// Takes away the choices that are not among an expert's `capacity` largest weights. Ties: the lowest token, then the lowest sample.
fn drop_beyond<T: Element>(config: &MoeConfig, input: &MoeInput<'_, T>, routing: &mut Routing<T::Wide>, capacity: usize) {
    let (experts, k) = (config.experts.count, config.top_k);
    let (token_stride, sample_stride) = input.layout.strides(input.tokens, input.samples);
    let batches = match config.capacity_scope {
        CapacityScope::Sample => input.samples,
        CapacityScope::Batch => 1,
    };
    let (chosen, weights, row_pairs) = (&routing.chosen, &routing.weights, &routing.row_pairs);
    let scopes = (0..batches).into_par_iter();
    let dropped = scopes.flat_map_iter(|batch| {
        let samples = if batches == 1 { 0..input.samples } else { batch..batch + 1 };
        let mut candidates = vec![vec![]; experts];
        for t in 0..input.tokens {
            for row in samples.clone().map(|b| t * token_stride + b * sample_stride) {
                for choice in (row * k..(row + 1) * k).filter(|&c| row_pairs[c] != NO_PAIR) {
                    let e = chosen[choice] as usize;
                    candidates[e].push((weights[row * experts + e], choice));
                }
            }
        }
        candidates.into_iter().flat_map(move |mut all| {
            // Stable: of equal weights the first in token order stays.
            all.sort_by(|a, b| higher_first(a.0, b.0));
            all.into_iter().skip(capacity).map(|(_, choice)| choice)
        })
    });
    for choice in dropped.collect::<Vec<usize>>() {
        routing.row_pairs[choice] = NO_PAIR;
        routing.weights[choice / k * experts + routing.chosen[choice] as usize] = T::Wide::ZERO;
    }
}

/// The kept pairs of needed rows, expert by expert, rows ascending.
fn list_pairs<T: Element>(config: &MoeConfig, input: &MoeInput<'_, T>, routing: &mut Routing<T::Wide>) {
    let (experts, k) = (config.experts.count, config.top_k);
    let mut next = vec![0; experts + 1];
    for row in 0..input.rows() {
        let needed = input.is_needed(row);
        for choice in row * k..(row + 1) * k {
            if !needed {
                routing.row_pairs[choice] = NO_PAIR;
            } else if routing.row_pairs[choice] != NO_PAIR {
                next[routing.chosen[choice] as usize + 1] += 1;
            }
        }
    }
    for e in 0..experts {
        next[e + 1] += next[e];
    }
    routing.expert_offsets.clone_from(&next);
    routing.pair_row.resize(next[experts], 0);
    routing.pair_weight.resize(next[experts], T::Wide::ZERO);
    for (choice, row_pair) in routing.row_pairs.iter_mut().enumerate().filter(|(_, pair)| **pair != NO_PAIR) {
        let (row, e) = (choice / k, routing.chosen[choice] as usize);
        let pair = next[e];
        next[e] += 1;
        *row_pair = pair as u32;
        routing.pair_row[pair] = row as u32;
        routing.pair_weight[pair] = routing.weights[row * experts + e];
    }
}

/// The gradient on the logits `[N, E]`; `dpair` `[P]` is what the experts say of each pair's weight.
pub fn backward<T: Element>(
    config: &MoeConfig,
    routing: &Routing<T::Wide>,
    upstream: &Upstream<'_, T>,
    dpair: &[T::Wide],
) -> Vec<T::Wide> {
    let (experts, k) = (config.experts.count, config.top_k);
    let mut dlogits = vec![T::Wide::ZERO; routing.logits.len()];
    dlogits.par_chunks_mut(experts).enumerate().with_min_len(64).for_each(|(row, dlogits)| {
        let at = row * experts..(row + 1) * experts;
        let (probabilities, weights) = (&routing.probabilities[at.clone()], &routing.weights[at.clone()]);
        let choices = row * k..(row + 1) * k;
        let chosen = &routing.chosen[choices.clone()];
        let mut dprobability = vec![T::Wide::ZERO; experts];
        for (&e, &pair) in chosen.iter().zip(&routing.row_pairs[choices]) {
            let e = e as usize;
            // A weight of 0 was dropped, or is 0 by itself: then its probability takes every gradient away below.
            if let Some(g) = upstream.dweights.filter(|_| weights[e] != T::Wide::ZERO) {
                dprobability[e] += g[at.start + e];
            }
            if pair != NO_PAIR {
                dprobability[e] += dpair[pair as usize];
            }
        }
        if config.renormalise {
            // weight_e = p_e / Σp, so that d weight_e / d p_j = (δ_ej - p_e / Σp) / Σp.
            let total = chosen_sum(config, probabilities, chosen);
            // The share is divided first: that of a single choice is then exactly 1, and its gradient exactly 0.
            let share = |e: u32| probabilities[e as usize] / total;
            let common: T::Wide = chosen.iter().map(|&e| dprobability[e as usize] * share(e)).sum();
            chosen.iter().for_each(|&e| dprobability[e as usize] = (dprobability[e as usize] - common) / total);
        }
        if let Some(g) = upstream.dprobabilities {
            super::add(&mut dprobability, &g[at.clone()]);
        }
        let mean = super::dot(probabilities, &dprobability);
        for e in 0..experts {
            dlogits[e] =
                probabilities[e] * (dprobability[e] - mean) + upstream.dlogits.map_or(T::Wide::ZERO, |g| g[at.start + e]);
        }
    });
    dlogits
}
