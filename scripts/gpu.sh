#!/bin/sh
# Everything that only a GPU can tell, in one call, on a machine that needs neither Rust nor a network: the facts of the hardware and
# every kernel against the reference, compute-sanitizer, the benchmarks, PyTorch's peers, and ncu on the slowest kernel. What a
# machine lacks or refuses is noted and left out. Leaves summary.json and log.txt, and what they were taken from.
#
#   scripts/gpu.sh BINARY OUT [PYTHON]   BINARY: from scripts/portable.sh; PYTHON has torch; python3 without one
set -u
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
python=${3:-python3}
cd "$(dirname "$0")/.."
export FAIR_MOE_CACHE="${FAIR_MOE_CACHE:-$out/cache}"
log=$out/log.txt
: >"$log"
: >"$out/steps.tsv"

# step NAME SECONDS COMMAND...: runs it with a time limit, keeps what it says and how it ended, and goes on.
step() {
    name=$1 limit=$2
    shift 2
    printf '\n== %s: %s\n' "$name" "$*" >>"$log"
    begin=$(date +%s)
    timeout "$limit" "$@" >"$out/step.txt" 2>&1
    status=$?
    cat "$out/step.txt" >>"$log"
    printf '%s\t%s\t%s\n' "$name" "$status" "$(($(date +%s) - begin))" >>"$out/steps.tsv"
    echo "$name: exit $status after $(($(date +%s) - begin)) s"
    return 0
}

step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
step info 30 "$binary" info
step check 240 "$binary" check --device cuda
tail -40 "$out/step.txt" >"$out/check.txt"
shapes="vit-b16-image vit-b16-image-fresh vit-b16-image-pruned vit-b16-image-skewed vit-b16-text vit-l14-image"
# shellcheck disable=SC2086 # the shapes are several arguments
step bench-bf16 240 "$binary" bench --device cuda --shape $shapes --samples 64 --dtype bf16 --json "$out/bench-bf16.json"
step bench-f32 120 "$binary" bench --device cuda --shape vit-b16-image --samples 64 --dtype f32 --json "$out/bench-f32.json"
step peers 120 "$python" benches/peers/gpu.py --samples 64
grep '^{' "$out/step.txt" >"$out/peers.jsonl"

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck initcheck; do
        step "$tool" 180 compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary" check --device cuda --dtype bf16
    done
else
    echo "compute-sanitizer: not here" | tee -a "$log"
fi

slowest=$("$python" -c '
import json, sys
rows = [r for r in json.load(open(sys.argv[1]))["results"] if r["stage"] not in ("layer", "fol")]
print(max(rows, key=lambda r: r["median_ms"])["stage"])' "$out/bench-bf16.json" 2>/dev/null || echo experts)
if command -v ncu >/dev/null; then
    step ncu 240 ncu --set full --kernel-name "regex:^${slowest}_" --launch-count 6 \
        "$binary" bench --device cuda --shape vit-b16-image --samples 64 --dtype bf16
else
    echo "ncu: not here" | tee -a "$log"
fi

"$python" - "$out" <<'END'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
def load(name):
    try:
        return json.loads((out / name).read_text())
    except (OSError, ValueError) as why:
        return {"missing": str(why)}
steps = [dict(zip(("step", "exit", "seconds"), line.split("\t"))) for line in (out / "steps.tsv").read_text().splitlines()]
peers = [json.loads(line) for line in (out / "peers.jsonl").read_text().splitlines()]
summary = {"steps": steps, "bench": [load("bench-bf16.json"), load("bench-f32.json")], "peers": peers}
(out / "summary.json.part").write_text(json.dumps(summary, indent=1))
(out / "summary.json.part").rename(out / "summary.json")
END
rm -rf "$out/step.txt" "$out/steps.tsv" "$out/cache"
