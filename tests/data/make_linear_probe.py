"""Writes linear_probe.safetensors beside this file: the published linear probe (BatchNorm1d without scale and shift, Linear, BCE on the
second output, LARS, warm-up and half a cosine) on made-up features, in PyTorch, f64. Needs torch and safetensors."""
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

N, TEST, D, EPOCHS, BATCH, WARM_UP, BASE_RATE, MOMENTUM, TRUST = 100, 30, 7, 40, 32, 10, 0.1, 0.9, 0.001
torch.manual_seed(3)


def features(n):
    label = torch.randint(0, 2, (n,))
    return (torch.randn(n, D) * torch.arange(1, D + 1) + 0.8 * label[:, None] + 2.0).float(), label


(x, y), (x_test, y_test) = features(N), features(TEST)
norm = torch.nn.BatchNorm1d(D, affine=False, eps=1e-6).double()
linear = torch.nn.Linear(D, 2).double()
torch.nn.init.trunc_normal_(linear.weight, std=0.01)
out = {"features": x, "label": y, "test_features": x_test, "weight": linear.weight.detach().clone(), "bias": linear.bias.detach().clone()}
out["orders"] = torch.stack([torch.randperm(N) for _ in range(EPOCHS)])
velocity = [torch.zeros_like(p) for p in linear.parameters()]
highest, steps = BASE_RATE * BATCH / 256, N // BATCH
norm.train()
for epoch, order in enumerate(out["orders"]):
    for step in range(steps):
        at = epoch + step / steps
        rate = highest * (at / WARM_UP if at < WARM_UP else 0.5 * (1 + math.cos(math.pi * (at - WARM_UP) / (EPOCHS - WARM_UP))))
        rows = order[step * BATCH : (step + 1) * BATCH]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(linear(norm(x[rows].double()))[:, 1], y[rows].double())
        gradients = torch.autograd.grad(loss, list(linear.parameters()))
        with torch.no_grad():
            for p, g, v in zip(linear.parameters(), gradients, velocity):
                if p.ndim > 1 and p.norm() > 0 and g.norm() > 0:
                    g = g * (TRUST * p.norm() / g.norm())
                v.mul_(MOMENTUM).add_(g)
                p.sub_(rate * v)
norm.eval()
with torch.no_grad():
    out["probability"] = torch.sigmoid(linear(norm(x_test.double())))[:, 1]
    out |= {"fitted_weight": linear.weight, "fitted_bias": linear.bias, "mean": norm.running_mean, "variance": norm.running_var}
settings = {"kind": "linear_probe", "epochs": EPOCHS, "batch": BATCH, "warm_up": WARM_UP, "base_rate": BASE_RATE, "momentum": MOMENTUM,
            "trust": TRUST}  # fmt: skip
tensors = {n: (t.double() if t.is_floating_point() else t).detach().contiguous() for n, t in out.items()}
save_file(tensors, Path(__file__).with_name("linear_probe.safetensors"), metadata={k: json.dumps(v) for k, v in settings.items()})
