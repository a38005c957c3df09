#!/bin/sh
# Builds the one binary that checks and measures on a machine without Rust: stripped, with every kernel's source inside.
# Prints its size and the oldest glibc that it runs with.
#
#   scripts/portable.sh [TO]             default: target/fair-moe
set -eu
cd "$(dirname "$0")/.."
folder=${CARGO_TARGET_DIR:-target}
to=${1:-$folder/fair-moe}
cargo build --release --locked --features cli,model
cp "$folder/release/fair-moe" "$to.part"
strip "$to.part"
mv "$to.part" "$to"
bytes=$(wc -c <"$to")
glibc=$(objdump -T "$to" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1)
echo "$to: $((bytes / 1000000)) MB, glibc from ${glibc#GLIBC_} on"
[ "$bytes" -lt 40000000 ] || { echo "it is to be below 40 MB" >&2; exit 1; }
