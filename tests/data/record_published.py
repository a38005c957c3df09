"""Layers and models in the form that published codes have them, written dense, and what `scripts/record_case.py` makes of each: every case
that it records here is replayed by the binary that is given.

    python record_published.py FAIR_MOE FOLDER
"""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import record_case as record  # noqa: E402

torch.manual_seed(3)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Expert(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.network = nn.Sequential()
        self.network.add_module("c_fc", nn.Linear(width, 4 * width))
        self.network.add_module("gelu", nn.ReLU())
        self.network.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x):
        return self.network(x)


class TokenMixture(nn.Module):
    """x [T, B, D]: every expert sees every token, and masks do the routing."""

    def __init__(self, width, experts=5, top_k=2, capacity=6):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, experts))
        self.experts = nn.ModuleList(Expert(width) for _ in range(experts))
        self.OutWeight = nn.Identity()
        self.top_k, self.capacity = top_k, capacity

    def forward(self, x):
        weights = F.softmax(self.gate(x), dim=-1)
        chosen = torch.zeros_like(weights).scatter(-1, weights.topk(self.top_k, dim=-1).indices, 1.0)
        weights = weights * chosen
        kept = torch.zeros_like(weights).scatter(0, weights.topk(self.capacity, dim=0).indices, 1.0)
        weights = self.OutWeight(weights * kept)
        return sum(weights[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts)) - x


class FeatureMixture(nn.Module):
    """x [B, D] -> (y, logits), dense."""

    def __init__(self, width, experts=3):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(width, width // 4), QuickGELU(), nn.Linear(width // 4, experts))
        self.experts = nn.ModuleList(Expert(width) for _ in range(experts))

    def forward(self, x):
        logits = self.gate(x)
        stacked = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (stacked * F.softmax(logits, dim=-1)[:, None]).sum(-1), logits


class Gated(nn.Module):
    """x [B, T, D], a linear gate, gated experts without biases under names of their own, weights renormalised, no capacity."""

    def __init__(self, width, experts=4):
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in self.shapes(width)}) for _ in range(experts)
        )

    @staticmethod
    def shapes(width):
        return (("a", (width, 24)), ("b", (width, 24)), ("c", (24, width)))

    def forward(self, x):
        probabilities = F.softmax(self.router(x), dim=-1)
        top = probabilities.topk(2, dim=-1)
        weights = torch.zeros_like(probabilities).scatter(-1, top.indices, top.values / top.values.sum(-1, keepdim=True))
        outs = torch.stack([e["c"](F.silu(e["a"](x)) * e["b"](x)) for e in self.blocks], dim=-1)
        return (outs * weights[:, :, None]).sum(-1), weights, probabilities


def published_loss(logits, weights, groups):
    """The published fairness loss, by geomloss."""
    from geomloss import SamplesLoss

    sinkhorn = SamplesLoss("sinkhorn", p=2, blur=0.01)
    square = lambda l: (l @ l).diagonal()  # noqa: E731
    spread = lambda w: w.var(dim=0).mean()  # noqa: E731
    total = -sum(spread(w) for w in weights)
    for other, own in groups:
        correlation = square(other)
        total = total + sinkhorn(square(logits)[:, None], (correlation / correlation.sum())[:, None])
        total = total + sum((spread(w) - spread(v)) ** 2 for w, v in zip(own, weights))
    return {"fol": total, "correlation": square(logits)}


def hugging_face():
    from transformers import CLIPConfig, CLIPModel

    tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 128, "hidden_act": "quick_gelu"}
    vision = {**tower, "image_size": 24, "patch_size": 8}
    text = {**tower, "vocab_size": 64, "max_position_embeddings": 11, "eos_token_id": 63, "bos_token_id": 62, "pad_token_id": 0}
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))


@functools.cache
def openai_class():
    # The package itself asks for what newer setuptools lack; its model does not.
    file = Path(importlib.util.find_spec("clip").submodule_search_locations[0]) / "model.py"
    return record.find(f"{file}:CLIP")


def openai():
    return openai_class()(16, 24, 2, 64, 8, 11, 64, 64, 1, 2).float()


def fair_moe(model):
    """OpenAI's CLIP as the published Fair-MoE changes it."""
    for tower in (model.visual.transformer, model.transformer):
        tower.resblocks[-1].mlp = TokenMixture(64, experts=4, top_k=2, capacity=4)
    model.moe, model.moetext = FeatureMixture(16), FeatureMixture(16)
    return model


def exact_transport(x, y):
    """Half the squared 2-Wasserstein distance of samples of equal number."""
    return 0.5 * (x.sort().values - y.sort().values).square().mean()


def step(model, image, ids, groups):
    """The paper's loss on all four gates, groups as constants."""

    def encode(image, ids):
        seen = {}
        mixtures = {"image_token": model.visual.transformer.resblocks[-1].mlp, "text_token": model.transformer.resblocks[-1].mlp}
        hooks = [
            m.OutWeight.register_forward_hook(lambda _m, _i, out, name=name: seen.update({f"gate.{name}": out}))
            for name, m in mixtures.items()
        ]
        (fi, zi), (ft, zt) = model.moe(model.encode_image(image)), model.moetext(model.encode_text(ids))
        for hook in hooks:
            hook.remove()
        fi, ft = fi / fi.norm(dim=-1, keepdim=True), ft / ft.norm(dim=-1, keepdim=True)
        seen |= {"gate.image_feature": zi.softmax(-1), "gate.text_feature": zt.softmax(-1), "image_embeds": fi, "text_embeds": ft}
        return {**seen, "logits": model.logit_scale.exp() * fi @ ft.T}, fi @ ft.T

    def spreads(seen, ids):
        rows = (torch.arange(ids.shape[1])[None] <= ids.argmax(-1, keepdim=True)).T
        pick = lambda name: seen[name][rows] if name == "gate.text_token" else seen[name].flatten(0, -2)  # noqa: E731
        return [pick(f"gate.{name}").var(dim=0) for name in ("image_token", "text_token", "image_feature", "text_feature")]

    found, cosine = encode(image, ids)
    target = torch.arange(len(image))
    terms = {"clip": (F.cross_entropy(found["logits"], target) + F.cross_entropy(found["logits"].T, target)) / 2}
    distance = dispersion = 0.0
    for other, texts in groups:
        with torch.no_grad():
            group, of_group = encode(other, texts)
        distance = distance + exact_transport(cosine.diagonal(), of_group.diagonal())
        dispersion = dispersion + sum((a - b).square().sum() for a, b in zip(spreads(found, ids), spreads(group, texts)))
    terms |= {"distance": 0.5 * distance, "dispersion": 2.0 * dispersion}
    return {**found, **{f"loss.{name}": term for name, term in terms.items()}, "loss": sum(terms.values())}


def texts(count):
    """Ids [count, 11] that end with the largest id, padding behind."""
    ids = torch.randint(1, 60, (count, 11))
    ids[:, 0] = 62
    for row, end in zip(ids, torch.randint(3, 11, (count,))):
        row[end], row[end + 1 :] = 63, 0
    return ids


def cases(folder):
    """Records each case, and names it."""

    def recorded(name, make, *args, **options):
        path = folder / f"{name}.safetensors"
        make(path, *args, **options)
        return path

    yield recorded("token", record.record_token_moe, TokenMixture(16), torch.randn(11, 3, 16), top_k=2, capacity=6)
    yield recorded("feature", record.record_feature_moe, FeatureMixture(16), torch.randn(5, 16))
    names = {
        "gate.fc2.weight": "router.weight",
        "experts.glu.weight": "blocks.{e}.a.weight",
        "experts.fc1.weight": "blocks.{e}.b.weight",
        "experts.fc2.weight": "blocks.{e}.c.weight",
    }
    settings = {"top_k": 2, "capacity": None, "renormalise": True, "subtract_input": False, "expert_activation": "silu"}
    yield recorded(
        "gated", record.record_token_moe, Gated(16), torch.randn(2, 9, 16), names=names, batch_first=True, **settings,
        outputs=("y", "weights", "probabilities"),
    )  # fmt: skip
    group = torch.tensor([0, 2, 2, -1, 0, 0, 1, 2, 0])
    yield recorded("moments", record.record_group_moments, torch.randn(9, 4) + 5, group)
    yield recorded("metrics", record.record_metrics, torch.rand(40), torch.arange(40) % 2, {"race": torch.arange(40) % 3}, figures=accuracy)
    yield recorded("preprocess", record.record_preprocess, torch.full((30, 20), 7), size=8, transform=constant)
    image, ids = torch.randn(4, 3, 24, 24), texts(4)
    if has("geomloss"):
        gates = lambda b: [torch.rand(5 * b, 4).softmax(-1), torch.rand(b, 3).softmax(-1)]  # noqa: E731
        groups = [(torch.randn(6, 6), gates(6)), (torch.randn(6, 6), gates(6))]
        weights = {"lambda_distance": 1.0, "lambda_dispersion": 1.0, "blur": 0.01}
        yield recorded("fol", record.record_fol, published_loss, torch.randn(8, 8), gates(8), groups, **weights)
    if has("transformers"):
        yield recorded("clip_hugging_face", record.record_clip, hugging_face(), image, ids)
    if has("clip"):
        yield recorded("clip_openai", record.record_clip, openai(), image, ids)
        groups = [(torch.randn(4, 3, 24, 24), texts(4)) for _ in range(3)]
        weights = {"lambda_distance": 0.5, "lambda_dispersion": 2.0, "capacity_vision": 4, "capacity_text": 4, "top_k": 2}
        layer = {"expert_activation": "relu", "subtract_input": True}
        yield recorded(
            "step", record.record_fair_moe_step, fair_moe(openai()), step, image, ids, groups, **weights, **layer
        )


def accuracy(probability, label, _):
    return {"accuracy": ((probability >= 0.5) == label).mean()}


def constant(image):
    """A grey image of one level is that level, scaled and normalised as CLIP does it."""
    mean, deviation = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    level = (torch.tensor(float(image[0, 0])) / 255 - mean) / deviation
    return level[:, None, None].expand(3, 8, 8)


def has(package):
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"SKIPPED what needs {package}", file=sys.stderr)
    return found


def small_mixture():
    return TokenMixture(16)


def by_command(binary, folder):
    """Records and replays from the command line."""
    x = folder / "x.npy"
    numpy.save(x, numpy.random.default_rng(0).standard_normal((11, 3, 16)))
    settings = ["--set", "top_k=2", "--set", "capacity=6", "--out", folder / "command.safetensors", "--check", binary]
    subprocess.run([sys.executable, record.__file__, "token_moe", "--module", f"{__file__}:small_mixture", "--x", x, *settings], check=True)


def main(binary, folder):
    bad = [path.name for path in cases(folder) if not record.check(path, binary)]
    wrong = folder / "wrong.safetensors"
    record.record_token_moe(wrong, small_mixture(), torch.randn(11, 3, 16), top_k=2, capacity=6, gate_activation="gelu")
    if record.check(wrong, binary):
        bad.append("a layer of another activation passes")
    by_command(binary, folder)
    sys.exit(f"above their bound: {bad}" if bad else 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
