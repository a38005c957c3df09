"""Mixtures of experts in PyTorch on a GPU, forward and backward, for comparison with `fair-moe bench --device cuda`.

The shapes are those of `bench`. The ViTs' layers (E = 10, K = 3, C = 47, biases, ReLU, minus x):
dense     as published: every expert on every token, masks do the routing.
sparse    a loop over the experts, each on the rows that it keeps.
grouped   rows sorted by expert, torch._grouped_mm for up and down (it takes no bias: biases are gathered and added).
bound     no layer: cuBLAS's batched product, activation and batched product on rows that lie ready, P / E of them for each expert.

The language models' (SwiGLU, no biases, from given probabilities): sparse, grouped and bound.
Also a plain product of 8192 x 4096 x 4096 and a copy: what cuBLAS and the memory reach on this machine.

Forms for which the host need not wait (dense, bound, and the language models' grouped) are captured and replayed as graphs, as `bench`
replays its own; where that is refused, and for the others, whose rows the host counts, it launches each operation: `mode` says which it
was. The ViTs' grouped form copies its experts' weights into one tensor in each pass; the language models' does not.

`relative_l2` is the distance of a form's output from that of the shape's first form. `tflops` counts what the pairs that are kept need, and
the ViTs' gate, however much more a form computes; the bound has no gate.

Routing is even, so that every expert is as full as can be, as in `bench`'s shapes without a suffix. Times are of the device, by events,
medians; the second-level cache is overwritten between runs. Prints one line of JSON per form and direction; a form that cannot run says
why. `--device cpu --shrink 8` tries all that on a machine without a GPU.
"""
import argparse
import gc
import json
import time

import torch
import torch.nn.functional as F

from layer import E, K, Layer

TOWERS = {"vit-b16-image": (197, 768), "vit-b16-text": (77, 512), "vit-l14-image": (257, 1024), "vit-l14-text": (77, 768)}
LANGUAGE = {  # N, D, F, E, K
    "swiglu-1.4b": (40960, 768, 1024, 32, 2),
    "swiglu-7b": (24576, 1536, 1024, 32, 2),
    "swiglu-30b": (32768, 4096, 256, 256, 16),
    "swiglu-120b": (32768, 4096, 1024, 128, 8),
    "olmoe": (32768, 2048, 1024, 64, 8),
    "qwen3-30b": (32768, 2048, 768, 128, 8),
}


def ends_of(experts, count):
    """Where each expert's rows end, of rows sorted by expert. The host need not wait for it, as it would for torch.bincount."""
    return torch.searchsorted(experts, torch.arange(count, device=experts.device), right=True).to(torch.int32)


class Tower(Layer):
    """The ViTs' layer, its gate made to prefer experts t, t+1, t+2 by the first coordinates of x."""

    forms = ("dense", "sparse", "grouped")
    without_waits = ("dense",)

    def prepare(self, x):
        with torch.no_grad():
            for gate in (self.gate1, self.gate2):
                gate.weight[:E, :] = 0
                gate.weight[:E, :E] = torch.eye(E)
            first = torch.arange(x.shape[0])[:, None] + torch.arange(x.shape[1])
            rank = (torch.arange(E) - first[..., None]) % E
            x[..., :E] = torch.where(rank < K, 8.0 * (K - rank) / K, torch.zeros(())).to(x)
            return int((self.weights(x) > 0).sum())

    def grouped(self, x):
        weights, rows = self.weights(x).reshape(-1, E), x.reshape(-1, x.shape[-1])
        expert, row = (weights.t() > 0).nonzero(as_tuple=True)
        ends = ends_of(expert, E)
        stack = lambda maps: torch.stack([m.weight for m in maps]).transpose(1, 2)
        bias = lambda maps: torch.stack([m.bias for m in maps])[expert]
        hidden = torch.relu(torch._grouped_mm(rows[row], stack(self.up), offs=ends) + bias(self.up))
        out = torch._grouped_mm(hidden, stack(self.down), offs=ends) + bias(self.down)
        return (-rows).index_add(0, row, out * weights[row, expert, None]).reshape(x.shape)


class SwiGlu(torch.nn.Module):
    """A language model's layer from given probabilities: each row's K experts and their weights."""

    forms = ("sparse", "grouped")
    without_waits = ("grouped",)

    def __init__(self, rows, width, expert_width, count, top_k):
        super().__init__()
        parameter = lambda *shape: torch.nn.Parameter((torch.rand(*shape) * 2 - 1) / shape[-1] ** 0.5)
        self.both, self.down = parameter(count, 2 * expert_width, width), parameter(count, width, expert_width)
        self.register_buffer("expert", (torch.arange(rows)[:, None] + torch.arange(top_k)) % count)
        self.register_buffer("weight", torch.rand(rows, top_k).softmax(-1))

    def prepare(self, x):
        return self.expert.numel()

    @staticmethod
    def activated(both):
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    def sparse(self, x):
        y = torch.zeros_like(x)
        # Once: the gradient of a single expert's slice would be as large as all of them.
        for e, (both, down) in enumerate(zip(self.both.unbind(0), self.down.unbind(0))):
            row, choice = (self.expert == e).nonzero(as_tuple=True)
            out = self.activated(x[row] @ both.t()) @ down.t()
            y.index_add_(0, row, out * self.weight[row, choice, None])
        return y

    def grouped(self, x):
        top_k = self.expert.shape[1]
        experts, order = self.expert.flatten().sort(stable=True)
        ends = ends_of(experts, self.both.shape[0])
        hidden = self.activated(torch._grouped_mm(x[order // top_k], self.both.transpose(1, 2), offs=ends))
        out = torch._grouped_mm(hidden, self.down.transpose(1, 2), offs=ends)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return torch.einsum("nkd,nk->nd", out[back].view(*self.expert.shape, -1), self.weight)


class Bound(torch.nn.Module):
    """Two batched products with an activation between them, and nothing else."""

    forms = without_waits = ("bound",)

    def __init__(self, count, width, expert_width, gated):
        super().__init__()
        self.gated = gated
        parameter = lambda *shape: torch.nn.Parameter((torch.rand(*shape) * 2 - 1) / shape[-1] ** 0.5)
        self.up = parameter(count, (2 if gated else 1) * expert_width, width)
        self.down = parameter(count, width, expert_width)

    def bound(self, x):
        hidden = torch.bmm(x, self.up.transpose(1, 2))
        return torch.bmm(SwiGlu.activated(hidden) if self.gated else torch.relu(hidden), self.down.transpose(1, 2))


def timed(run, runs, device):
    """Milliseconds of each run, in ascending order."""
    times = []
    if device == "cpu":
        for _ in range(1 + runs):
            begin = time.perf_counter()
            run()
            times.append((time.perf_counter() - begin) * 1e3)
        return sorted(times[1:])
    flush = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    for _ in range(3 + runs):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times[3:])


def say(about, run, runs, device, work=None):
    """Prints how long it takes, or why it cannot run; with `work`, a unit and how much of it there is, how fast that is."""
    try:
        times = timed(run, runs, device)
    except Exception as why:  # A form that is not there or has no room must not keep the others from being measured.
        print(json.dumps(about | {"refused": f"{type(why).__name__}: {str(why).splitlines()[0] if str(why) else ''}"}), flush=True)
        return
    median = times[len(times) // 2]
    speed = {work[0]: work[1] / median * 1e3} if work else {}
    print(json.dumps(about | {"median_ms": median, "min_ms": times[0], "max_ms": times[-1]} | speed), flush=True)


def captured(run, clear):
    """One graph of all that it launches, after a few runs that let libraries make ready what they keep."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def passes(module, name, x, about, runs, device, flops):
    """Forward alone, then forward and backward."""
    form, dy = getattr(module, name), torch.randn_like(x)

    def forward():
        with torch.no_grad():
            form(x)

    def clear():
        module.zero_grad(set_to_none=True)
        x.grad = None

    def both():
        clear()
        form(x).backward(dy)

    for direction, run, work in (("forward", forward, flops), ("forward+backward", both, 3 * flops)):
        mode = {"mode": "eager"}
        if device != "cpu" and name in module.without_waits:
            try:
                graph = captured(run, clear)
                mode, run = {"mode": "graph"}, graph.replay
            except Exception as why:
                mode |= {"capture_refused": f"{type(why).__name__}: {why}"}
        say(about | {"peer": name, "pass": direction} | mode, run, runs, device, ("tflops", work / 1e12))
        clear()


def distances(module, x):
    """How far each form's output is from the first's; null for one that cannot run, which says why when it is to be timed."""
    found, first = {}, None
    for name in module.forms:
        try:
            with torch.no_grad():
                y = getattr(module, name)(x).float()
        except Exception:
            found[name] = {"relative_l2": None}
            continue
        first = y if first is None else first
        found[name] = {"relative_l2": float((y - first).norm() / first.norm())}
    return found


def ceilings(about, runs, device, shrink):
    m, n, k = (size // shrink for size in (8192, 4096, 4096))
    a, b = (torch.randn(*shape, device=device, dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
    say(about | {"peer": "product"}, lambda: a @ b, runs, device, ("tflops", 2 * m * n * k / 1e12))
    source = torch.ones((1 << 28) // shrink, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    say(about | {"peer": "copy"}, lambda: target.copy_(source), runs, device, ("gbs", 2 * source.numel() / 1e9))


def measure(shape, samples, arguments, about):
    device, shrink = arguments.device, arguments.shrink
    if shape in TOWERS:
        tokens, width = TOWERS[shape]
        width, samples = width // shrink, max(1, samples // shrink)
        about |= {"shape": shape, "samples": samples}
        module, x = Tower(width), torch.randn(tokens, samples, width)
        sizes = (E, width, 4 * width, False)
        gate = 2 * tokens * samples * (width + E) * (width // 4)
    else:
        rows, width, expert_width, count, top_k = LANGUAGE[shape]
        rows, width, expert_width, count = rows // shrink, width // shrink, expert_width // shrink, max(top_k, count // shrink)
        about |= {"shape": shape}
        with torch.device(device):
            module = SwiGlu(rows, width, expert_width, count, top_k)
        x, sizes, gate = torch.randn(rows, width), (count, width, expert_width, True), 0
    pairs = module.prepare(x)
    module, x = module.to(device, torch.bfloat16), x.to(device, torch.bfloat16).requires_grad_()
    about |= {"pairs": pairs}
    products = (6 if sizes[3] else 4) * pairs * sizes[1] * sizes[2]
    far = distances(module, x)
    # What is captured comes last: a capture that fails may take what follows with it.
    for name in sorted(module.forms, key=lambda name: name in module.without_waits):
        passes(module, name, x, about | far[name], arguments.runs, device, products + gate)
    del module, x
    gc.collect()
    with torch.device(device):
        bound = Bound(*sizes).to(torch.bfloat16)
    x = torch.randn(sizes[0], max(1, pairs // sizes[0]), sizes[1], device=device, dtype=torch.bfloat16, requires_grad=True)
    passes(bound, "bound", x, about, arguments.runs, device, products)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["vit-b16-image"], choices=[*TOWERS, *LANGUAGE])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shrink", type=int, default=1, help="divides all sizes but T and K")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    gpu = torch.cuda.get_device_name() if arguments.device != "cpu" else "none"
    about = {"torch": torch.__version__, "gpu": gpu}
    try:
        ceilings(about, arguments.runs, arguments.device, arguments.shrink)
    except Exception as why:
        print(json.dumps(about | {"peer": "ceilings", "refused": str(why)}), flush=True)
    for shape in arguments.shape:
        try:
            measure(shape, arguments.samples, arguments, dict(about))
        except Exception as why:  # Such as no room for the layer itself.
            print(json.dumps(about | {"shape": shape, "refused": f"{type(why).__name__}: {why}"}), flush=True)
        gc.collect()
        if arguments.device != "cpu":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
