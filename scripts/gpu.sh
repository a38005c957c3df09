#!/bin/sh
# Everything that only a GPU can tell, in one call, on a machine that needs neither Rust nor a network: every kernel against the
# reference, the benchmarks, PyTorch's peers, ncu on the slowest kernel, compute-sanitizer, and the facts of the hardware. What a
# machine lacks or refuses is noted and left out, and so is what there is no time for. Leaves summary.json and log.txt, and what
# they were taken from; the summary is there after every step.
#
#   scripts/gpu.sh BINARY OUT [PYTHON]   BINARY: from scripts/portable.sh; PYTHON has torch; python3 without one
#
# FAIR_MOE_SECONDS says how long all of it may take; 540 without.
set -u
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
python=${3:-python3}
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export FAIR_MOE_CACHE="${FAIR_MOE_CACHE:-$scratch/cache}"
deadline=$(($(date +%s) + ${FAIR_MOE_SECONDS:-540}))
log=$out/log.txt
said=$scratch/said.txt
: >"$log"
: >"$scratch/steps.tsv"

summarise() {
    "$python" - "$out" "$scratch/steps.tsv" <<'END'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
steps = [dict(zip(("step", "exit", "seconds"), line.split("\t"))) for line in open(sys.argv[2]).read().splitlines()]
bench = [json.loads(path.read_text()) for path in sorted(out.glob("bench-*.json"))]
peers = [json.loads(line) for path in out.glob("peers.jsonl") for line in path.read_text().splitlines()]
(out / "summary.json.part").write_text(json.dumps({"steps": steps, "bench": bench, "peers": peers}, indent=1))
(out / "summary.json.part").rename(out / "summary.json")
END
}

# step NAME SECONDS COMMAND...: runs it with a time limit, keeps what it says and how it ended, and goes on.
step() {
    name=$1 limit=$2
    shift 2
    begin=$(date +%s)
    left=$((deadline - begin))
    [ "$left" -lt "$limit" ] && limit=$left
    : >"$said"
    if [ "$limit" -lt 5 ]; then
        status="no time left"
    elif ! command -v "$1" >/dev/null; then
        status="$1 is not here"
    else
        printf '\n== %s: %s\n' "$name" "$*" >>"$log"
        timeout -k 5 "$limit" "$@" >"$said" 2>&1
        status=$?
        cat "$said" >>"$log"
    fi
    printf '%s\t%s\t%s\n' "$name" "$status" "$(($(date +%s) - begin))" >>"$scratch/steps.tsv"
    echo "$name: exit $status after $(($(date +%s) - begin)) s"
    summarise
}

bench() { # SHAPE DTYPE
    step "bench $1 $2" 60 "$binary" bench --device cuda --shape "$1" --samples 64 --dtype "$2" --json "$out/bench-$1-$2.json"
}

step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
step info 30 "$binary" info
step check 120 "$binary" check --device cuda
bench vit-b16-image bf16
step peers 90 "$python" benches/peers/gpu.py --samples 64
grep '^{' "$said" >"$out/peers.jsonl"
bench vit-b16-image f32
for shape in vit-b16-image-fresh vit-b16-image-pruned vit-b16-image-skewed vit-b16-text vit-l14-image; do
    bench "$shape" bf16
done
slowest=$("$python" -c '
import json, sys
rows = [r for r in json.load(open(sys.argv[1]))["results"] if r["stage"] not in ("layer", "fol")]
print(max(rows, key=lambda r: r["median_ms"])["stage"])' "$out/bench-vit-b16-image-bf16.json" 2>/dev/null || echo experts)
step ncu 120 ncu --clock-control none --kill yes --set full --kernel-name "regex:^${slowest}_" --launch-count 6 \
    "$binary" bench --device cuda --shape vit-b16-image --samples 64 --dtype bf16
step facts 30 "$binary" check --device cuda --facts
for tool in memcheck racecheck synccheck initcheck; do
    step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary" check --device cuda --dtype bf16
done
# Few files come back from some machines: one for all shapes.
"$python" - "$out" <<'END'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
parts = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("bench-*.json"))}
(out / "bench.json").write_text(json.dumps(parts, indent=1))
for path in out.glob("bench-*.json"):
    path.unlink()
END
