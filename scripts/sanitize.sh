#!/bin/sh
# Runs the emulated tests on kernels compiled under AddressSanitizer with UBSan, or under ThreadSanitizer, which finds races between
# CUDA threads even in runs whose result happens to be right. One seed each: what the sanitizers see does not hang on the order.
#
#   scripts/sanitize.sh address|thread [TEST...]      default: every test of the emulation
set -eu
cd "$(dirname "$0")/.."
kind=${1:-}
case $kind in
address) sanitizers=address,undefined ;;
thread) sanitizers=thread ;;
*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
shift
[ $# -gt 0 ] || set -- $(cd tests && ls emulation.rs gpu_*.rs | sed 's/\.rs$//' | grep -v nvrtc)
export FAIR_MOE_SANITIZE=$sanitizers FAIR_MOE_SEEDS=1
# Blocks' stacks are kept for later ones, and Rust brings its own start: neither is a leak, nor a library out of order.
export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.txt:halt_on_error=1:history_size=4"
start=$(date +%s)
for test in "$@"; do
    tests="${tests:-} --test $test"
done
# A planted fault ends the process under a sanitizer, as it should; and 2^31 elements would need as much shadow.
# shellcheck disable=SC2086
cargo test --no-default-features --features cuda,emulate,cli $tests -- --skip planted --skip side_by_side --skip larger_than --skip offsets_beyond --skip a_million
echo "$kind: no finding in $(($(date +%s) - start)) s"
