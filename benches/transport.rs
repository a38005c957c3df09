//! The stage `transport`: a distance and its gradient, which come together.

mod support;

fn main() {
    support::loss(fair_moe::bench::Stage::Transport);
}
