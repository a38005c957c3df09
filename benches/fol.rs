//! The whole loss, forward and backward.

mod support;

fn main() {
    support::loss(fair_moe::bench::Stage::Fol);
}
