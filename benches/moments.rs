//! The stage `moments`, forward and backward.

mod support;

fn main() {
    support::loss(fair_moe::bench::Stage::Moments);
}
