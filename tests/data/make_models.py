"""Writes the recorded cases clip_*.safetensors, step_*.safetensors and axes_*.safetensors of the sizes below beside this file: whole models at the edge of
what a model takes (one head and several, one block, one patch, no capacity, one expert, groups of different sizes), computed by
PyTorch's autograd in f64 from the dense statement: every expert on every row, masks do the routing.

Needs torch, safetensors and geomloss.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from geomloss import SamplesLoss
from safetensors.torch import save_file


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "quick_gelu": quick_gelu}


class Model:
    """A CLIP with random parameters named as in Hugging Face's CLIPModel, and the four mixtures where `moe` holds their settings."""

    def __init__(self, config, moe, seed):
        self.config, self.moe, self.w, self.probabilities = config, moe, {}, {}
        self.generator = torch.Generator().manual_seed(seed)
        for tower, tokens in (("vision", (config["image"] // config["patch"]) ** 2 + 1), ("text", config["context"])):
            D, layers, name = config[f"{tower}_width"], config[f"{tower}_layers"], f"{tower}_model"
            self.normal(f"{name}.embeddings.position_embedding.weight", tokens, D, scale=0.5)
            for l in range(layers):
                block = f"{name}.encoder.layers.{l}"
                self.norm(f"{block}.layer_norm1", D), self.norm(f"{block}.layer_norm2", D)
                for part in ("q", "k", "v", "out"):
                    self.linear(f"{block}.self_attn.{part}_proj", D, D)
                if moe and l + 1 == layers:
                    self.mixture(f"{block}.mlp", D, config["experts"])
                else:
                    self.linear(f"{block}.mlp.fc1", 4 * D, D), self.linear(f"{block}.mlp.fc2", D, 4 * D)
            projection = "visual_projection" if tower == "vision" else "text_projection"
            self.normal(f"{projection}.weight", config["embed"], D, scale=D**-0.5)
            if moe:
                self.mixture(f"{tower}_feature_moe", config["embed"], config["groups"])
        vision, text = config["vision_width"], config["text_width"]
        self.normal("vision_model.embeddings.class_embedding", vision, scale=1.0)
        self.normal("vision_model.embeddings.patch_embedding.weight", vision, 3, config["patch"], config["patch"], scale=0.15)
        self.normal("text_model.embeddings.token_embedding.weight", config["vocab"], text, scale=1.0)
        self.norm("vision_model.pre_layrnorm", vision), self.norm("vision_model.post_layernorm", vision)
        self.norm("text_model.final_layer_norm", text)
        self.w["logit_scale"] = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def normal(self, name, *shape, scale, around=0.0):
        drawn = around + scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        self.w[name] = drawn.requires_grad_(True)

    def norm(self, name, D):
        self.normal(f"{name}.weight", D, scale=0.1, around=1.0), self.normal(f"{name}.bias", D, scale=0.1)

    def linear(self, name, out, width):
        self.normal(f"{name}.weight", out, width, scale=width**-0.5), self.normal(f"{name}.bias", out, scale=0.1)

    def mixture(self, name, D, E):
        H = max(1, D // 4)
        self.linear(f"{name}.gate.fc1", H, D), self.linear(f"{name}.gate.fc2", E, H)
        for part, out, width in (("fc1", 4 * D, D), ("fc2", D, 4 * D)):
            self.normal(f"{name}.experts.{part}.weight", E, out, width, scale=width**-0.5)
            self.normal(f"{name}.experts.{part}.bias", E, out, scale=0.1)

    def project(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def normalise(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)

    def scores(self, x, name, act):
        return torch.softmax(self.project(act(self.project(x, f"{name}.gate.fc1")), f"{name}.gate.fc2"), -1)

    def experts(self, x, name, weights):
        act, y = ACTIVATIONS[self.moe["expert_activation"]], 0.0
        for e in range(weights.shape[-1]):
            up = F.linear(x, self.w[f"{name}.experts.fc1.weight"][e], self.w[f"{name}.experts.fc1.bias"][e])
            down = F.linear(act(up), self.w[f"{name}.experts.fc2.weight"][e], self.w[f"{name}.experts.fc2.bias"][e])
            y = y + weights[..., e, None] * down
        return y

    def subtract(self):
        return self.moe.get("subtract") or ("layer-input" if self.moe["subtract_input"] else "nothing")

    def tower(self, tower, h, routed=None):
        """h [B, T, D] -> the last hidden layer, and the final weights [T, B, E] of the mixture in the last block.

        `routed` [B, T]: 1.0 where a token takes part in routing, 0.0 where it does not; none: all do."""
        config, weights, name = self.config, None, f"{tower}_model"
        heads, layers = config[f"{tower}_heads"], config[f"{tower}_layers"]
        for l in range(layers):
            block = f"{name}.encoder.layers.{l}"
            x = self.normalise(h, f"{block}.layer_norm1")
            parts = (self.project(x, f"{block}.self_attn.{part}_proj") for part in "qkv")
            q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=tower == "text").transpose(1, 2).flatten(2)
            h = h + self.project(mixed, f"{block}.self_attn.out_proj")
            x = self.normalise(h, f"{block}.layer_norm2")
            if self.moe and l + 1 == layers:
                scores = self.scores(x, f"{block}.mlp", F.relu)
                weights = self.route(scores if routed is None else scores * routed[..., None], self.moe[f"capacity_{tower}"])
                y = self.experts(x, f"{block}.mlp", weights)
                stays = {"nothing": h, "layer-input": h - x, "block-input": 0.0}[self.subtract()]
                h, weights, self.probabilities[tower] = stays + y, weights.transpose(0, 1), scores
            else:
                h = h + self.project(quick_gelu(self.project(x, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        return h, weights

    def route(self, probabilities, capacity):
        """[B, T, E]: a token's likeliest experts, and of those the tokens of each sample that an expert weighs most."""

        def largest(weights, count, dim):
            order = weights.sort(dim=dim, descending=True, stable=True).indices.narrow(dim, 0, count)
            return torch.zeros_like(weights).scatter_(dim, order, 1.0)

        weights = probabilities * largest(probabilities, self.moe["top_k"], -1)
        return weights if capacity is None else weights * largest(weights, min(capacity, weights.shape[1]), 1)

    def forward(self, image, ids):
        config, w, B = self.config, self.w, image.shape[0]
        patches = F.conv2d(image, w["vision_model.embeddings.patch_embedding.weight"], stride=config["patch"]).flatten(2).mT
        h = torch.cat([w["vision_model.embeddings.class_embedding"].expand(B, 1, -1), patches], 1)
        h = self.normalise(h + w["vision_model.embeddings.position_embedding.weight"], "vision_model.pre_layrnorm")
        h, image_token = self.tower("vision", h)
        image_embeds = self.project(self.normalise(h[:, 0], "vision_model.post_layernorm"), "visual_projection")
        h = w["text_model.embeddings.token_embedding.weight"][ids] + w["text_model.embeddings.position_embedding.weight"]
        text_rows = (torch.arange(config["context"]) <= ids.argmax(-1, keepdim=True)).double()
        h, text_token = self.tower("text", h, None if not self.moe or self.moe.get("route_padding", True) else text_rows)
        h = self.normalise(h, "text_model.final_layer_norm")
        text_embeds = self.project(h[torch.arange(B), ids.argmax(-1)], "text_projection")
        gates = {}
        if self.moe:
            image_feature = self.scores(image_embeds, "vision_feature_moe", quick_gelu)
            text_feature = self.scores(text_embeds, "text_feature_moe", quick_gelu)
            stays = float(self.moe.get("feature_residual", False))
            image_embeds = stays * image_embeds + self.experts(image_embeds, "vision_feature_moe", image_feature)
            text_embeds = stays * text_embeds + self.experts(text_embeds, "text_feature_moe", text_feature)
            gates = {"image_token": image_token, "text_token": text_token, "image_feature": image_feature, "text_feature": text_feature}
        image_embeds, text_embeds = F.normalize(image_embeds, dim=-1), F.normalize(text_embeds, dim=-1)
        out = {"image_embeds": image_embeds, "text_embeds": text_embeds, "logits": w["logit_scale"].exp() * image_embeds @ text_embeds.T}
        return out | {f"gate.{name}": gate for name, gate in gates.items()}

    def batch(self, samples):
        config, draw = self.config, lambda low, high: torch.randint(low, high, (1,), generator=self.generator).item()
        image = torch.randn(samples, 3, config["image"], config["image"], generator=self.generator, dtype=torch.float64)
        ids = torch.randint(1, config["vocab"] - 1, (samples, config["context"]), generator=self.generator)
        for text in ids:
            end = draw(1, config["context"])
            text[end], text[end + 1 :] = config["vocab"] - 1, 0
        return image, ids


def cross_entropy(logits):
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def transport(x, y):
    """Half the squared 2-Wasserstein distance of two samples: both repeated to the same length, then sorted."""
    n, m = len(x), len(y)
    return 0.5 * (x.repeat_interleave(m).sort().values - y.repeat_interleave(n).sort().values).square().mean()


def paper(batch, groups, ids, group_ids, settings):
    def variances(out, ids):
        text = out["gate.text_token"].transpose(0, 1)[torch.arange(ids.shape[1]) <= ids.argmax(-1, keepdim=True)]
        return [g.flatten(0, -2).var(0) for g in (out["gate.image_token"], text, out["gate.image_feature"], out["gate.text_feature"])]

    def cosines(out):
        return (out["image_embeds"] * out["text_embeds"]).sum(-1)

    own = variances(batch, ids)
    pairs = [pair for g, i in zip(groups, group_ids) for pair in zip(own, variances(g, i))]
    dispersion = sum((a - b).square().sum() for a, b in pairs)
    distance = sum(transport(cosines(batch), cosines(g)) for g in groups)
    return {"distance": settings["lambda_distance"] * distance, "dispersion": settings["lambda_dispersion"] * dispersion}


def authors(batch, groups, settings):
    sinkhorn = SamplesLoss("sinkhorn", p=2, blur=1e-4)

    def correlation(out):
        return (out["logits"] @ out["logits"]).diagonal()

    def spreads(out):
        return [out[f"gate.text_{kind}"].flatten(0, -2).var(0).mean() for kind in ("token", "feature")]

    own, fol = spreads(batch), 0.0
    for group in groups:
        there = correlation(group)
        fol = fol + settings["lambda_distance"] * sinkhorn(correlation(batch)[:, None], (there / there.sum())[:, None])
        fol = fol + settings["lambda_dispersion"] * sum((a - b).square() for a, b in zip(own, spreads(group)))
    return {"fol": fol - settings["lambda_dispersion"] * sum(own)}


def save(name, settings, tensors):
    tensors = {n: t.detach().contiguous().clone() for n, t in tensors.items()}
    save_file(tensors, Path(__file__).with_name(f"{name}.safetensors"), metadata={k: json.dumps(v) for k, v in settings.items()})


def config(image, patch, vision, context, vocab, text, embed, experts=1, groups=1):
    """`vision` and `text`: width, layers, heads."""
    sizes = {"image": image, "patch": patch, "context": context, "vocab": vocab, "embed": embed, "experts": experts, "groups": groups}
    towers = (("vision", vision), ("text", text))
    return sizes | {f"{tower}_{k}": n for tower, all_ in towers for k, n in zip(("width", "layers", "heads"), all_)}


def clip(name, config, samples):
    model = Model(config, None, seed=sum(map(ord, name)))
    image, ids = model.batch(samples)
    save(f"clip_{name}", {"kind": "clip", "config": config}, model.w | {"image": image, "ids": ids} | model.forward(image, ids))


def step(name, preset, config, samples, groups, **settings):
    """`groups`: how many samples each has."""
    model = Model(config, settings, seed=sum(map(ord, name)))
    image, ids = model.batch(samples)
    others = [model.batch(n) for n in groups]
    inputs = {f"group{g}.{kind}": t for g, batch in enumerate(others) for kind, t in zip(("image", "ids"), batch)}
    out = model.forward(image, ids)
    with torch.no_grad():
        found = [model.forward(*batch) for batch in others]
    fair = paper(out, found, ids, [ids for _, ids in others], settings) if preset == "paper" else authors(out, found, settings)
    terms = {"clip": cross_entropy(out["logits"])} | fair
    loss = sum(terms.values())
    loss.backward()
    results = out | {"loss": loss.reshape(1)} | {f"loss.{n}": t.reshape(1) for n, t in terms.items()}
    results |= {f"d.{n}": torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.w.items()}
    settings |= {"kind": "fair_moe_step", "preset": preset, "config": config}
    save(f"step_{name}", settings, model.w | {"image": image, "ids": ids} | inputs | results)


def axes(name, config, samples, of, rows, **settings):
    """A model on axes of which no preset has all: outputs, and the dispersion of the gates that a loss reads, with gradients."""
    model = Model(config, settings, seed=sum(map(ord, name)))
    image, ids = model.batch(samples)
    out = model.forward(image, ids)
    tokens = {side: out[f"gate.{side}_token"].transpose(0, 1) for side in ("image", "text")}
    kept = {"image": torch.ones(tokens["image"].shape[:2]).bool(), "text": torch.arange(ids.shape[1]) <= ids.argmax(-1, keepdim=True)}
    if rows == "selected":
        kept = {side: weights.sum(-1) > 0 for side, weights in tokens.items()}
    if of == "probabilities":
        tokens = {"image": model.probabilities["vision"], "text": model.probabilities["text"]}
    gates = [tokens["image"][kept["image"]], out["gate.image_feature"], tokens["text"][kept["text"]], out["gate.text_feature"]]
    variances = [gate.var(0) for gate in gates]
    loss = cross_entropy(out["logits"]) - sum(v.mean() for v in variances)
    loss.backward()
    names = ("image_token", "image_feature", "text_token", "text_feature")
    results = out | {f"variance.{n}": v for n, v in zip(names, variances)} | {"loss": loss.reshape(1)}
    results |= {f"d.{n}": torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.w.items()}
    settings |= {"kind": "model_axes", "config": config, "of": of, "rows": rows, "subtract_input": False}
    save(f"axes_{name}", settings, model.w | {"image": image, "ids": ids} | results)


clip("one_patch", config(7, 7, (5, 1, 1), 9, 40, (12, 2, 3), 10), samples=3)
step(
    "uneven_groups", "paper", config(8, 4, (12, 2, 3), 7, 30, (10, 1, 1), 9, experts=5, groups=4), samples=5, groups=[2, 3, 6, 4],
    top_k=3, capacity_vision=None, capacity_text=2, expert_activation="gelu", subtract_input=False, lambda_distance=1.0,
    lambda_dispersion=50.0,
)  # fmt: skip
step(
    "one_expert", "authors", config(10, 5, (8, 1, 2), 5, 30, (9, 2, 3), 6, experts=1, groups=2), samples=4, groups=[3, 7],
    top_k=1, capacity_vision=1, capacity_text=None, expert_activation="silu", subtract_input=True, lambda_distance=1e-3,
    lambda_dispersion=1.0,
)  # fmt: skip
SMALL = config(8, 4, (8, 2, 2), 7, 30, (8, 2, 1), 6, experts=4, groups=3)
axes(
    "no_residual", SMALL, samples=4, of="weights", rows="selected", top_k=2, capacity_vision=2, capacity_text=2,
    expert_activation="quick_gelu", subtract="block-input", route_padding=False, feature_residual=True,
)  # fmt: skip
axes(
    "probabilities", SMALL, samples=4, of="probabilities", rows="not-padding", top_k=2, capacity_vision=None, capacity_text=1,
    expert_activation="quick_gelu", subtract="layer-input", route_padding=False, feature_residual=False,
)  # fmt: skip
