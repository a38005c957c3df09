//! Launches the gate: its network, softmax and choice; and its gradients.

// SAFETY: addresses are the caller's promise, as `Driver` says; what can be told from the numbers is checked here.
#![allow(unsafe_code)]

use super::Queue;
use super::args::GateForward;
use super::driver::Shape;
use super::limits::{at_least_one, instance, present};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Rows and columns of a tile.
const TILE: usize = 64;

/// hidden, logits, probabilities, chosen, and weights before capacity.
///
/// # Safety
/// The addresses hold what `kernels/args/gate.cuh` says.
pub unsafe fn forward(queue: &Queue<'_>, dtype: DType, args: &GateForward) -> Result<()> {
    check_sizes(args.rows, args.width, args.hidden_width, args.experts)?;
    if args.top_k < 1 || args.top_k > args.experts {
        return Err(Error::config("top-k", format!("from 1 to the number of experts, {}", args.experts), args.top_k));
    }
    present(&[("x", args.x), ("gate.fc2.weight", args.fc2_weight), ("the gate's logits", args.logits)])?;
    present(&[("the gate's probabilities", args.probabilities), ("the gate's choices", args.chosen)])?;
    present(&[("the gate's weights", args.weights), ("the routing's counters", args.counters)])?;
    if args.hidden_width > 0 {
        present(&[("gate.fc1.weight", args.fc1_weight), ("the gate's hidden layer", args.hidden)])?;
    }
    let shape = Shape::blocks(queue.blocks((args.rows as u32).div_ceil(TILE as u32), 2));
    // SAFETY: the caller's promise.
    unsafe { queue.launch(&instance("gate_forward", dtype)?, shape, args) }
}

fn check_sizes(rows: i32, width: i32, hidden_width: i32, experts: i32) -> Result<()> {
    at_least_one(&[("the number of rows", rows), ("width", width), ("the number of experts", experts)])?;
    if hidden_width < 0 { Err(Error::config("the gate's hidden width", "at least 0", hidden_width)) } else { Ok(()) }
}
