#!/bin/sh
# Runs the emulated tests on kernels compiled under AddressSanitizer with UBSan, or under ThreadSanitizer, which finds races between
# CUDA threads even in runs whose result happens to be right. One seed each: what the sanitizers see does not hang on the order.
#
#   scripts/sanitize.sh address|thread [TEST...]      default: every test of the emulation
set -eu
cd "$(dirname "$0")/.."
kind=${1:-}
# A planted fault ends the process under a sanitizer, as it should; 2^31 elements would need as much shadow; what runs side by side or
# takes a million tokens is a matter of time alone, and the cases themselves are the CPU's.
skip="planted side_by_side larger_than offsets_beyond a_million no_doubt"
case $kind in
address) sanitizers=address,undefined ;;
# What compares orders of threads, and large cases of what small ones have as well: hundreds of samples, recorded losses, wide layers,
# every layer that `check` has. A launch that failed is abandoned with its threads, of which later ones on the same stacks know nothing.
thread) sanitizers=thread skip="$skip same_bits bits_do_not hundreds_of_samples large_sets small_blurs recorded_cases losses large_layers many_rows no_tensor_map gradients_anywhere launch_that_failed decisions_hold" ;;
*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
shift
[ $# -gt 0 ] || set -- $(cd tests && ls emulation.rs gpu_*.rs | sed 's/\.rs$//' | grep -v -e nvrtc -e missing -e safe)
export FAIR_MOE_SANITIZE=$sanitizers FAIR_MOE_SEEDS=1
# Both kinds share what they depend on, and leave other builds alone.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sanitize"
# Blocks' stacks are kept for later ones, and Rust brings its own start: neither is a leak, nor a library out of order.
export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.txt:halt_on_error=1:history_size=4"
for test in "$@"; do
    tests="${tests:-} --test $test"
done
for name in $skip; do
    skips="${skips:-} --skip $name"
done
# shellcheck disable=SC2086
run() { cargo test --no-default-features --features emulate,cli $tests "$@"; }
run --no-run
start=$(date +%s)
# One test at a time: each has threads of its own, and ThreadSanitizer's time grows with how many there are.
# shellcheck disable=SC2086
run -- --test-threads 1 $skips
echo "$kind: no finding in $(($(date +%s) - start)) s"
