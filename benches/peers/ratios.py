"""Prints what scripts/bench_cpu.sh measured, as ratios. Argument: the folder with its figures."""
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])


def layer(name):
    """Milliseconds of forward plus backward (medians), and P."""
    rows = [r for r in json.loads((folder / name).read_text())["results"] if r["stage"] == "layer"]
    return sum(r["median_ms"] for r in rows), rows[0]["pairs"]


ours, pairs = layer("f32-8.json")
half, half_pairs = layer("bf16-8.json")
large, large_pairs = layer("f32-64.json")
print(f"ours, f32, B = 8: {ours:.0f} ms, {pairs} pairs")
for line in (folder / "peers.jsonl").read_text().splitlines():
    peer = json.loads(line)
    print(f"PyTorch {peer['torch']} {peer['peer']}: {peer['median_ms']:.0f} ms, {peer['pairs']} pairs: {peer['median_ms'] / ours:.1f}x ours")
print(f"ours, bf16: {half:.0f} ms, {half_pairs} pairs: {ours / half:.2f}x as fast as f32")
print(f"per pair at B = 64: {large / large_pairs / (ours / pairs):.3f} of that at B = 8")
