"""Fair-MoE's token mixture in PyTorch on a GPU, forward and backward, for comparison with `fair-moe bench --device cuda`.

dense     as published: every expert on every token, masks do the routing.
sparse    a loop over the experts, each on the rows that it keeps.
grouped   rows sorted by expert, torch._grouped_mm for up and down (it takes no bias: biases are gathered and added).

Shape and routing as in layer.py. Times are of the device, by events, medians; the second-level cache is overwritten between runs.
Prints one line of JSON per form and direction; a form that this PyTorch cannot run says why.
"""
import argparse
import json

import torch

from layer import C, D, E, WIDTH, T, Layer


class Grouped(Layer):
    def grouped(self, x):
        weights, rows = self.weights(x).reshape(-1, E), x.reshape(-1, D)
        kept = (weights.t() > 0).nonzero()
        expert, row = kept[:, 0], kept[:, 1]
        ends = torch.bincount(expert, minlength=E).cumsum(0).to(torch.int32)
        stack = lambda maps: torch.stack([m.weight for m in maps]).transpose(1, 2)
        bias = lambda maps: torch.stack([m.bias for m in maps])[expert]
        hidden = torch.relu(torch._grouped_mm(rows[row], stack(self.up), offs=ends) + bias(self.up))
        out = torch._grouped_mm(hidden, stack(self.down), offs=ends) + bias(self.down)
        y = (-rows).index_add(0, row, out * weights[row, expert, None])
        return y.reshape(x.shape)


def timed(run, runs):
    """Milliseconds of each run, in ascending order."""
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(3 + runs):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times[3:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    layer = Grouped().to("cuda", torch.bfloat16)
    x = torch.randn(T, arguments.samples, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    dy = torch.randn_like(x)
    with torch.no_grad():
        pairs = int((layer.weights(x) > 0).sum())
    about = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "pairs": pairs, "samples": arguments.samples}
    about |= {"width": D, "expert_width": WIDTH, "capacity": C}
    for name in ("dense", "sparse", "grouped"):
        form = getattr(layer, name)

        def forward():
            with torch.no_grad():
                form(x)

        def both():
            layer.zero_grad(set_to_none=True)
            x.grad = None
            form(x).backward(dy)

        try:
            for what, run in (("forward", forward), ("forward+backward", both)):
                times = timed(run, arguments.runs)
                ms = {"median_ms": times[len(times) // 2], "min_ms": times[0], "max_ms": times[-1]}
                print(json.dumps({"peer": name, "pass": what} | about | ms), flush=True)
        except (RuntimeError, AttributeError, NotImplementedError) as why:
            print(json.dumps({"peer": name, "refused": str(why).splitlines()[0]}), flush=True)


if __name__ == "__main__":
    main()
