//! y = Σ weight · expert(x) + shared(x) - x, for the rows that are needed; 0 for the others.

use super::add_scaled;
use super::experts::shared;
use crate::config::MoeConfig;
use crate::moe::{MoeInput, Routing};
use crate::parameters::Parameters;

/// `outputs` `[P, D]` -> y.
pub fn forward(
    config: &MoeConfig,
    parameters: &Parameters<&[f64]>,
    input: &MoeInput<'_, f64>,
    routing: &Routing<f64>,
    outputs: &[f64],
) -> Vec<f64> {
    let d = config.width;
    let mut y = vec![0.0; input.x.len()];
    for (p, &row) in routing.pair_row.iter().enumerate() {
        add_scaled(&mut y[row as usize * d..][..d], routing.pair_weight[p], &outputs[p * d..][..d]);
    }
    for row in (0..input.rows()).filter(|&row| input.is_needed(row)) {
        let (x, y) = (input.row(row, d), &mut y[row * d..][..d]);
        if config.shared_expert {
            add_scaled(y, 1.0, &shared().forward(config, parameters, x));
        }
        if config.subtract_input {
            add_scaled(y, -1.0, x);
        }
    }
    y
}

/// Adds what the shared expert and the subtraction give to dx and the gradients.
pub fn backward(
    config: &MoeConfig,
    parameters: &Parameters<&[f64]>,
    input: &MoeInput<'_, f64>,
    dy: &[f64],
    dx: &mut [f64],
    gradients: &mut Parameters<Vec<f64>>,
) {
    let d = config.width;
    for row in (0..input.rows()).filter(|&row| input.is_needed(row)) {
        let (dy, dx) = (&dy[row * d..][..d], &mut dx[row * d..][..d]);
        if config.shared_expert {
            shared().backward(config, parameters, input.row(row, d), dy, dx, gradients);
        }
        if config.subtract_input {
            add_scaled(dx, -1.0, dy);
        }
    }
}
