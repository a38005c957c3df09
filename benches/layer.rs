//! The whole layer, forward and backward.

mod support;

fn main() {
    support::layer(fair_moe::bench::Stage::Layer);
}
