"""Fair-MoE's token mixture in PyTorch, forward and backward, timed on the CPU for comparison with `fair-moe bench`.

dense    as published: every expert on every token, masks do the routing.
sparse   a loop over the experts, each on the rows that it keeps.

The shape is that of `bench --shape vit-b16-image-fresh`: T tokens, B samples, D width, experts of 4 D, a gate of D / 4, E experts, K of
them a row, capacity C a sample and expert, gates as PyTorch initialises them. Prints one line of JSON per form.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

T, D, E, K, C = 197, 768, 10, 3, 47


class Layer(torch.nn.Module):
    def __init__(self, width=D):
        super().__init__()
        self.gate1, self.gate2 = torch.nn.Linear(width, width // 4), torch.nn.Linear(width // 4, E)
        self.up = torch.nn.ModuleList(torch.nn.Linear(width, 4 * width) for _ in range(E))
        self.down = torch.nn.ModuleList(torch.nn.Linear(4 * width, width) for _ in range(E))

    def weights(self, x):
        """[T, B, E]: softmax, the K best experts of a row, the C heaviest rows of a sample and expert."""
        probability = torch.softmax(self.gate2(F.relu(self.gate1(x))), dim=-1)
        chosen = torch.zeros_like(probability).scatter_(-1, probability.topk(K, dim=-1).indices, 1.0)
        weights = probability * chosen
        return weights * torch.zeros_like(weights).scatter_(0, weights.topk(C, dim=0).indices, 1.0)

    def expert(self, e, x):
        return self.down[e](F.relu(self.up[e](x)))

    def dense(self, x):
        weights = self.weights(x)
        outputs = torch.stack([self.expert(e, x) for e in range(E)], dim=2)
        return (outputs * weights.unsqueeze(-1)).sum(dim=2) - x

    def sparse(self, x):
        weights, rows = self.weights(x).reshape(-1, E), x.reshape(-1, x.shape[-1])
        y = -rows
        for e in range(E):
            kept = weights[:, e].nonzero().squeeze(-1)
            y = y.index_add(0, kept, self.expert(e, rows[kept]) * weights[kept, e, None])
        return y.reshape(x.shape)


def timed(layer, form, x, dy, runs):
    """Seconds of forward plus backward, once for nothing and then `runs` times, in ascending order."""
    times = []
    for _ in range(1 + runs):
        layer.zero_grad(set_to_none=True)
        x.grad = None
        start = time.perf_counter()
        form(x).backward(dy)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    layer = Layer()
    x = torch.randn(T, arguments.samples, D, requires_grad=True)
    dy = torch.randn(T, arguments.samples, D)
    with torch.no_grad():
        pairs = int((layer.weights(x) > 0).sum())
        assert torch.allclose(layer.dense(x), layer.sparse(x), atol=1e-4)
    for name, form in (("sparse", layer.sparse), ("dense", layer.dense)):
        times = timed(layer, form, x, dy, arguments.runs)
        ms = {"median_ms": times[len(times) // 2] * 1e3, "min_ms": times[0] * 1e3, "max_ms": times[-1] * 1e3}
        print(json.dumps({"peer": name, "torch": torch.__version__, "pairs": pairs} | ms), flush=True)


if __name__ == "__main__":
    main()
