#!/bin/sh
# Everything that only a GPU can tell, in one call, on a machine that needs neither Rust nor a network: the facts of the hardware, every
# kernel against the reference, the benchmarks, PyTorch's peers, ncu on the experts' products, and compute-sanitizer. What a machine
# lacks or refuses is noted and left out, and so is what there is no time for. Leaves summary.json, with all figures and how each step
# ended, log.txt, with all that was said, and rooflines.tar, the drawings; they are there after every step that ran.
#
#   scripts/gpu.sh BINARY OUT [PYTHON [WHAT]]   BINARY: from scripts/portable.sh; PYTHON has torch; python3 without one
#
# WHAT: `speed`, the checks, the benchmarks and PyTorch's peers; `depth`, ncu and compute-sanitizer; without it both, as far as time goes.
# FAIR_MOE_SECONDS says how long all of it may take; 540 without, which either half is meant to keep to.
set -u
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
python=${3:-python3}
what=${4:-all}
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:/usr/local/cuda/bin
# A toolkit's `stubs` have a libcuda that is there to be linked against, and finds no GPU.
LD_LIBRARY_PATH=$(printf '%s\n' "${LD_LIBRARY_PATH:-}" | tr : '\n' | grep -v '/stubs/*$' | paste -s -d : -)
export LD_LIBRARY_PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export FAIR_MOE_CACHE="${FAIR_MOE_CACHE:-$scratch/cache}"
deadline=$(($(date +%s) + ${FAIR_MOE_SECONDS:-540}))
log=$out/log.txt
said=$scratch/said.txt
sound=yes
: >"$log"
: >"$scratch/steps.tsv"
: >"$scratch/peers.jsonl"

# Few files come back from some machines: one holds all figures, one all drawings.
summarise() {
    "$python" - "$out" "$scratch" <<'END'
import json, pathlib, sys, tarfile
out, scratch = map(pathlib.Path, sys.argv[1:])

def replace(name, write):
    write(out / (name + ".part"))
    (out / (name + ".part")).replace(out / name)

def values(texts):
    """Without what a time limit cut off."""
    for text in texts:
        try:
            yield json.loads(text)
        except ValueError:
            pass

steps = [dict(zip(("step", "exit", "seconds"), line.split("\t"))) for line in (scratch / "steps.tsv").read_text().splitlines()]
checks = [step for step in steps if step["step"].startswith("check ") and step["exit"].isdigit()]
checked = {step["step"][6:]: step["exit"] == "0" for step in checks}
bench = []
for path in sorted(scratch.glob("bench-*.json"), key=lambda path: path.stat().st_mtime):
    name, dtype = path.stem[6:].rsplit(".", 1)
    bench += [{"name": name, "dtype": dtype, "checked": checked.get(dtype), **report} for report in values([path.read_text()])]
peers = list(values((scratch / "peers.jsonl").read_text().splitlines()))
summary = {"steps": steps, "checked": checked, "bench": bench, "peers": peers}
replace("summary.json", lambda path: path.write_text(json.dumps(summary, indent=1)))

drawings = sorted(scratch.glob("roofline-*.svg"))
def pack(path):
    with tarfile.open(path, "w") as tar:
        for drawing in drawings:
            tar.add(drawing, drawing.name)
if drawings:
    replace("rooflines.tar", pack)
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
        before=$(wc -c <"$log")
        # Into the log at once, so that it tells where a machine was taken away.
        timeout -k 5 "$limit" "$@" >>"$log" 2>&1
        status=$?
        tail -c "+$((before + 1))" "$log" >"$said"
    fi
    case $name in peers*) grep '^{' "$said" >>"$scratch/peers.jsonl" ;; esac
    printf '%s\t%s\t%s\n' "$name" "$status" "$(($(date +%s) - begin))" >>"$scratch/steps.tsv"
    echo "$name: exit $status after $(($(date +%s) - begin)) s"
    [ "$status" = "no time left" ] || summarise
}

# bench NAME SECONDS DTYPE SAMPLES SHAPE...: figures and a roofline of these shapes. They are short where kernels are not sound.
bench() {
    [ "$what" = depth ] && return
    of=$1 seconds=$2 dtype=$3 samples=$4
    shift 4
    [ "$sound" = yes ] || seconds=15
    step "bench $of" "$seconds" "$binary" bench --device cuda --shape "$@" --samples "$samples" --dtype "$dtype" \
        --json "$scratch/bench-$of.$dtype.json" --plot "$scratch/roofline-$of.svg"
}

# peers NAME SECONDS SAMPLES SHAPE...: PyTorch on the same.
peers() {
    [ "$what" = depth ] && return
    of=$1 seconds=$2 samples=$3
    shift 3
    step "peers $of" "$seconds" "$python" benches/peers/gpu.py --samples "$samples" --shape "$@"
}

# profile PRODUCT...: ncu on the first launch of each.
profile() {
    [ "$what" = speed ] && return
    for product in "$@"; do
        step "ncu $product" 40 ncu --clock-control none --kill yes --set full --kernel-name "regex:^experts_${product}_" \
            --launch-count 1 "$binary" bench --device cuda --shape vit-b16-image --samples 64 --dtype bf16
    done
}

# sanitize TOOL SECONDS [CASE...]: a few small cases, one of which an H200 multiplies by wgmma, and those that are named.
sanitize() {
    tool=$1 seconds=$2
    shift 2
    step "$tool" "$seconds" compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary" check --device cuda --dtype bf16 --facts none \
        --case paper "a thousand pairs" "rows needed" "no row needed" "a third as wide" "half as wide" "$@"
}

# Each dtype in a process of its own: the first fault takes the device's context with it. The first has the most to compile.
check() {
    patience=90
    for dtype in bf16 f16 f32; do
        step "check $dtype" "$patience" "$binary" check --device cuda --dtype "$dtype" --facts none
        patience=60
        [ "$dtype" = bf16 ] && [ "$status" != 0 ] || continue
        sound=no patience=40
        last=$(sed -n 's/^check bf16: //p' "$said" | tail -n 1)
        sanitize memcheck 60 ${last:+"$last"}
        step "blocking check" 40 env CUDA_LAUNCH_BLOCKING=1 "$binary" check --device cuda --dtype bf16 --facts none
    done
}

# What matters most comes first.
step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
step info 30 "$binary" info
step facts 60 "$binary" check --device cuda --facts
[ "$what" = depth ] || check
bench vit-b16-64 60 bf16 64 vit-b16-image vit-b16-image-pruned
profile up merged
[ "$what" = speed ] || [ "$sound" = no ] || sanitize memcheck 60
peers vit-b16-64 60 64 vit-b16-image
bench swiglu-1.4b 60 bf16 1 swiglu-1.4b
bench swiglu-120b 60 bf16 1 swiglu-120b
peers swiglu-1.4b 60 1 swiglu-1.4b
peers swiglu-120b 60 1 swiglu-120b
bench vit-64 60 bf16 64 vit-b16-text vit-l14-image vit-l14-text
bench swiglu-others 90 bf16 1 swiglu-7b olmoe qwen3-30b swiglu-30b
bench vit-b16-skewed-64 30 bf16 64 vit-b16-image-skewed
bench vit-b16-f32-64 30 f32 64 vit-b16-image
peers vit-64 60 64 vit-b16-text vit-l14-image vit-l14-text
peers swiglu-others 90 1 swiglu-7b olmoe qwen3-30b swiglu-30b
profile down dinner
bench vit-32 60 bf16 32 vit-b16-image vit-b16-text vit-l14-image vit-l14-text
for kind in pruned fresh; do
    for size in 64 32; do
        bench "vit-$kind-$size" 60 bf16 "$size" "vit-b16-image-$kind" "vit-b16-text-$kind" "vit-l14-image-$kind" "vit-l14-text-$kind"
    done
done
for tool in synccheck initcheck racecheck; do
    [ "$what" = speed ] || sanitize "$tool" 120
done
# Once more, with what there was no time for.
summarise
