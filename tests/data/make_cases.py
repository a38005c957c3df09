"""Writes the recorded cases edge_*.safetensors beside this file: shapes at the edge of what the layer and the moments take, computed
by PyTorch's autograd in f64 from the dense statement (every expert on every row, masks do the routing).

Needs torch and safetensors. Layer inputs and parameters hold values that bf16 represents exactly.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


def save(name, settings, tensors):
    path = Path(__file__).with_name(f"edge_{name}.safetensors")
    tensors = {n: t.detach().contiguous() for n, t in tensors.items()}
    save_file(tensors, path, metadata={k: json.dumps(v) for k, v in settings.items()})


def token(name, T, B, D, F_, E, k, capacity, gate="relu", expert="relu", renormalise=False, subtract=True, bias=True):
    """One case of kind token_moe; `capacity` none: as many rows as choose an expert."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))

    def values(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).bfloat16().double()

    def uniform(*shape, fan, scale=1.0):
        """As PyTorch initialises linear maps."""
        drawn = torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1
        return (drawn * scale / fan**0.5).bfloat16().double()

    H = max(1, D // 4)
    parameters = {
        "gate.fc1.weight": uniform(H, D, fan=D), "gate.fc1.bias": uniform(H, fan=D),
        "gate.fc2.weight": uniform(E, H, fan=H, scale=3.0), "gate.fc2.bias": uniform(E, fan=H),
        "experts.fc1.weight": uniform(E, F_, D, fan=D), "experts.fc1.bias": uniform(E, F_, fan=D),
        "experts.fc2.weight": uniform(E, D, F_, fan=F_), "experts.fc2.bias": uniform(E, D, fan=F_),
    }  # fmt: skip
    if not bias:
        parameters = {n: p for n, p in parameters.items() if n.endswith("weight")}
    x = values(T, B, D)
    inputs = {"x": x} | parameters
    for tensor in inputs.values():
        tensor.requires_grad_(True)

    def linear(name, rows):
        return F.linear(rows, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))

    def expert_of(e):
        up = F.linear(x, parameters["experts.fc1.weight"][e], parameters["experts.fc1.bias"][e] if bias else None)
        return F.linear(ACTIVATIONS[expert](up), parameters["experts.fc2.weight"][e], parameters["experts.fc2.bias"][e] if bias else None)

    def largest(weights, count, dim):
        order = weights.sort(dim=dim, descending=True, stable=True).indices.narrow(dim, 0, count)
        return torch.zeros_like(weights).scatter_(dim, order, 1.0)

    probabilities = torch.softmax(linear("gate.fc2", ACTIVATIONS[gate](linear("gate.fc1", x))), dim=-1)
    weights = probabilities * largest(probabilities, k, -1)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    if capacity is not None and capacity < T:
        weights = weights * largest(weights, capacity, 0)
    y = sum(weights[..., e, None] * expert_of(e) for e in range(E)) - (x if subtract else 0.0)
    upstream = {"dy": values(T, B, D), "dweights": values(T, B, E)}
    torch.autograd.backward([y, weights], [upstream["dy"], upstream["dweights"]])
    gradients = {f"d.{n}": torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()}
    settings = {
        "kind": "token_moe", "tokens": T, "samples": B, "width": D, "expert_width": F_, "experts": E, "top_k": k, "capacity": capacity,
        "gate_activation": gate, "expert_activation": expert, "renormalise": renormalise, "subtract_input": subtract,
    }  # fmt: skip
    if not bias:
        settings |= {"gate_bias": False, "expert_bias": False}
    results = {"y": y, "weights": weights, "probabilities": probabilities, "dx": x.grad}
    save(name, settings, inputs | upstream | results | gradients)


def moments(name, sizes, columns, mean):
    """One case of kind group_moments: groups of these sizes, shuffled, and three rows in none."""
    generator = torch.Generator().manual_seed(7)
    group = torch.cat([torch.full((n,), g) for g, n in enumerate(sizes)] + [torch.full((3,), -1)])
    group = group[torch.randperm(len(group), generator=generator)]
    x = (torch.randn(len(group), columns, generator=generator) + mean).double().requires_grad_(True)
    dmean, dvariance = (torch.randn(len(sizes), columns, generator=generator, dtype=torch.float64) for _ in range(2))
    zero = torch.zeros(columns, dtype=torch.float64)
    rows = [x[group == g] for g in range(len(sizes))]
    means = torch.stack([r.mean(0) if len(r) else zero for r in rows])
    variances = torch.stack([r.var(0) if len(r) > 1 else zero for r in rows])
    torch.autograd.backward([means, variances], [dmean, dvariance])
    tensors = {"x": x, "group": group.int(), "dmean": dmean, "dvariance": dvariance, "count": torch.tensor(sizes)}
    settings = {"kind": "group_moments", "rows": len(group), "columns": columns, "groups": len(sizes)}
    save(name, settings, tensors | {"mean": means, "variance": variances, "dx": x.grad})


token("one_expert", T=5, B=2, D=8, F_=12, E=1, k=1, capacity=3)
token("k_equals_e", T=6, B=2, D=8, F_=12, E=4, k=4, capacity=3, renormalise=True, subtract=False)
token("capacity_one", T=7, B=3, D=8, F_=12, E=5, k=2, capacity=1, expert="silu")
token("one_token", T=1, B=12, D=8, F_=12, E=5, k=2, capacity=6)
token("odd_sizes", T=7, B=3, D=13, F_=11, E=3, k=2, capacity=None, gate="quick_gelu", expert="gelu")
token("no_bias", T=6, B=2, D=8, F_=12, E=4, k=2, capacity=3, bias=False)
moments("uneven_groups", sizes=[150, 1, 9, 2], columns=3, mean=100.0)
