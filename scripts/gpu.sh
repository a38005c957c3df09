#!/bin/sh
# Everything that only a GPU can tell, in one call, on a machine that needs neither Rust nor a network: every kernel against the
# reference, the benchmarks, PyTorch's peers, ncu on the experts' products, compute-sanitizer, and the facts of the hardware. What a
# machine lacks or refuses is noted and left out, and so is what there is no time for. Leaves summary.json and log.txt, and what
# they were taken from; the summary is there after every step.
#
#   scripts/gpu.sh BINARY OUT [PYTHON [WHAT]]   BINARY: from scripts/portable.sh; PYTHON has torch; python3 without one
#
# WHAT: `speed`, the check, the benchmarks and PyTorch's peers; `depth`, the rest; without it both, as far as time goes.
# FAIR_MOE_SECONDS says how long all of it may take; 540 without, which either half is meant to keep to.
set -u
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
python=${3:-python3}
what=${4:-all}
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

# bench NAME SECONDS DTYPE SAMPLES SHAPE...: figures and a roofline of these shapes.
bench() {
    what_name=$1 what_limit=$2 dtype=$3 samples=$4
    shift 4
    step "bench $what_name" "$what_limit" "$binary" bench --device cuda --shape "$@" --samples "$samples" --dtype "$dtype" \
        --json "$out/bench-$what_name.json" --plot "$out/roofline-$what_name.svg"
}

# peers NAME SECONDS SAMPLES SHAPE...: PyTorch on the same.
peers() {
    what_name=$1 what_limit=$2 samples=$3
    shift 3
    step "peers $what_name" "$what_limit" "$python" benches/peers/gpu.py --samples "$samples" --shape "$@"
    grep '^{' "$said" >>"$out/peers.jsonl"
}

# What matters most comes first.
speed() {
    # Each in a process of its own: the first fault takes the device's context with it.
    for dtype in bf16 f16 f32; do
        step "check $dtype" 60 "$binary" check --device cuda --dtype "$dtype"
    done
    : >"$out/peers.jsonl"
    bench vit-b16-64 60 bf16 64 vit-b16-image vit-b16-image-pruned
    peers vit-b16-64 60 64 vit-b16-image
    bench swiglu-1.4b 60 bf16 1 swiglu-1.4b
    bench swiglu-120b 60 bf16 1 swiglu-120b
    peers swiglu-1.4b 60 1 swiglu-1.4b
    peers swiglu-120b 60 1 swiglu-120b
    for size in 64 32; do
        for kind in "" -pruned -fresh; do
            bench "vit$kind-$size" 60 bf16 "$size" \
                "vit-b16-image$kind" "vit-b16-text$kind" "vit-l14-image$kind" "vit-l14-text$kind"
        done
    done
    for model in swiglu-7b olmoe qwen3-30b swiglu-30b; do
        bench "$model" 60 bf16 1 "$model"
    done
    bench vit-b16-skewed-64 30 bf16 64 vit-b16-image-skewed
    bench vit-b16-f32-64 30 f32 64 vit-b16-image
    peers vit-64 60 64 vit-b16-text vit-l14-image vit-l14-text
    peers swiglu-others 90 1 swiglu-7b olmoe qwen3-30b swiglu-30b
}

depth() {
    for product in up down dinner merged; do
        step "ncu $product" 40 ncu --clock-control none --kill yes --set full --kernel-name "regex:^experts_${product}_" \
            --launch-count 1 "$binary" bench --device cuda --shape vit-b16-image --samples 64 --dtype bf16
    done
    for tool in memcheck racecheck synccheck initcheck; do
        step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary" check --device cuda --dtype bf16
    done
}

step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
step info 30 "$binary" info
step facts 30 "$binary" check --device cuda --facts
[ "$what" = depth ] || speed
[ "$what" = speed ] || depth
# Once more, with what came behind the last step.
summarise
# Few files come back from some machines: one for all shapes.
"$python" - "$out" <<'END'
import json, pathlib, sys, tarfile
out = pathlib.Path(sys.argv[1])
parts = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("bench-*.json"))}
if parts:
    (out / "bench.json").write_text(json.dumps(parts, indent=1))
drawings = sorted(out.glob("roofline-*.svg"))
if drawings:
    with tarfile.open(out / "rooflines.tar", "w") as tar:
        for path in drawings:
            tar.add(path, path.name)
for path in [*out.glob("bench-*.json"), *drawings]:
    path.unlink()
END
