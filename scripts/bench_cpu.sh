#!/bin/sh
# The layer against PyTorch, forward and backward, on the same machine in one run, f32 on 2 threads; then bf16 against f32, and
# the time per pair at B = 64 against B = 8. Goals: 8x the dense published form, 2x a sparse loop over experts.
#
#   scripts/bench_cpu.sh [PYTHON]        PYTHON has torch; python3 without one
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
export RAYON_NUM_THREADS=2
figures=$(mktemp -d)
trap 'rm -rf "$figures"' EXIT

cargo build --release --quiet --features cli,model
cp "${CARGO_TARGET_DIR:-target}/release/fair-moe" "$figures"
bench() {
    "$figures/fair-moe" bench --shape vit-b16-image-fresh --samples "$1" --dtype "$2" --json "$figures/$2-$1.json" >/dev/null
}
bench 8 f32
"$python" benches/peers/layer.py --samples 8 --threads 2 >"$figures/peers.jsonl"
bench 8 bf16
bench 64 f32
"$python" benches/peers/ratios.py "$figures"
