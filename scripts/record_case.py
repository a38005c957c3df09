"""Records a case for `fair-moe run` from PyTorch code of your own: the inputs, the settings, and what your code makes of them in f64,
gradients by autograd. Needs torch, numpy and safetensors.

    from record_case import record_token_moe
    record_token_moe("case.safetensors", my_layer, x, top_k=3, capacity=47)          # x [T, B, D]

    python record_case.py token_moe --module my_layer.py:make --x x.pt --set top_k=3 --out case.safetensors --check fair-moe

`my_layer.py:make` is a function that gives the module, or the module itself; a file saved by torch.save serves too (loading one runs
what it holds, so take only your own). `--check` replays the case with that binary and prints each tensor's relative error.

The other kinds: `feature_moe` likewise; `clip` with a model of Hugging Face, OpenAI or open_clip; `fair_moe_step`, `fol`,
`group_moments`, `metrics` and `preprocess` with a function of yours (`--call loss.py:step`) and `--inputs FILE` (.safetensors, .npz, or a
dict saved by torch.save) that holds the case's inputs under their own names. What each kind holds: `cargo doc`, module `case`.
"""

import argparse
import copy
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from record_names import clip_sizes, clip_tensors, hidden_act, layer_tensors  # noqa: E402

F64 = torch.float64
# Gradients through Sinkhorn are good to about 1e-8 themselves.
BOUNDS = {"fol": 1e-6, "fair_moe_step": 1e-6}


def write(path, kind, settings, tensors):
    """Writes a case; a single number becomes a tensor of shape [1]."""
    metadata = {key: json.dumps(value) for key, value in {"kind": kind, **settings}.items()}
    scalar = lambda name, t: t.reshape(1) if t.dim() == 0 and not name.endswith("logit_scale") else t  # noqa: E731
    plain = {name: scalar(name, torch.as_tensor(t).detach().cpu()).contiguous().clone() for name, t in tensors.items()}
    save_file(plain, str(path), metadata=metadata)
    print(f"{path}: replay it with\n  fair-moe run {path} --dtype f64 --out results.safetensors")


def in_f64(module):
    """A copy of the module on the CPU, in f64, evaluating, with a gradient for every parameter."""
    module = copy.deepcopy(module).to("cpu", F64).eval()
    for norm in module.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            norm.forward = torch.nn.LayerNorm.forward.__get__(norm)  # OpenAI's goes through f32
    return module.requires_grad_(True)


def values_and_gradients(module, translate):
    """The parameters as the case names them, and their gradients; what the loss does not reach has a gradient of zero."""
    named = dict(module.named_parameters(remove_duplicate=False))
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named.items()}
    return translate({name: p.detach() for name, p in named.items()}), translate(gradients)


def record_layer(path, kind, module, x, settings, names, outputs, hooks, batch_first, seed):
    """Runs a layer forward and backward. `hooks`: {result: submodule whose output it is}; `outputs`: what the module returns, in order."""
    module = in_f64(module)
    x = torch.as_tensor(x).detach().to(F64).requires_grad_(True)
    dims = 3 if kind == "token_moe" else 2
    if x.dim() != dims:
        raise ValueError(f"x must have {dims} dimensions, but has shape {list(x.shape)}")
    seen = {}
    if hooks is None:
        hooks = {"weights": "OutWeight"} if hasattr(module, "OutWeight") else {}
    for name, at in hooks.items():
        module.get_submodule(at).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    returned = module(x)
    returned = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(returned) > len(outputs):
        raise ValueError(f"the module returns {len(returned)} things: say which with outputs, such as {list(outputs)}")
    seen.update(zip(outputs, returned))
    seen = {name: t.reshape(*x.shape[:-1], -1) for name, t in seen.items() if name in ("y", "weights", "probabilities", "logits")}

    generator = torch.Generator().manual_seed(seed)
    # bf16 holds them exactly, so that a case recorded from such parameters serves every dtype.
    random = lambda like: torch.randn(like.shape, generator=generator, dtype=F64).bfloat16().to(F64)  # noqa: E731
    upstream = {f"d{name}": random(t) for name, t in seen.items() if t.requires_grad}
    sum((seen[name[1:]] * d).sum() for name, d in upstream.items()).backward()
    own, gradients = values_and_gradients(module, lambda named: layer_tensors(named, names))

    rows = lambda t: t.transpose(0, 1) if batch_first and kind == "token_moe" else t  # noqa: E731
    tensors = {name: rows(t) for name, t in {"x": x, **seen, **upstream, "dx": x.grad}.items()}
    sizes = rows(x).shape
    experts, inner = own["experts.fc1.weight"].shape[:2]
    found = {"samples": sizes[-2], "width": sizes[-1], "experts": experts, "expert_width": inner}
    if kind == "token_moe":
        found["tokens"] = sizes[0]
        # As the published code has it: of 197 tokens, 0.8 of what even shares would be.
        settings["capacity"] = int(197 * 0.8 * settings["top_k"] / experts) if settings["capacity"] == "published" else settings["capacity"]
    found["gate_bias"], found["expert_bias"] = "gate.fc2.bias" in own, "experts.fc1.bias" in own
    write(path, kind, {**found, **settings}, {**tensors, **own, **{f"d.{name}": d for name, d in gradients.items()}})


def record_token_moe(
    path, module, x, *, top_k=3, capacity="published", renormalise=False, subtract_input=True, gate_activation="relu",
    expert_activation="relu", names=None, outputs=("y", "weights", "probabilities", "logits"), hooks=None, batch_first=False, seed=0,
):  # fmt: skip
    """A layer on x [T, B, D], or [B, T, D] with batch_first. The defaults are those of the published FairTokenMoE.

    `capacity`: tokens that an expert takes of a sample, or None. `names`: {the case's name: yours, `{e}` for an expert's number} where
    yours are not known. Activations: relu, quick_gelu, gelu or silu.
    """
    settings = {
        "top_k": top_k, "capacity": capacity, "renormalise": renormalise, "subtract_input": subtract_input,
        "gate_activation": gate_activation, "expert_activation": expert_activation,
    }  # fmt: skip
    record_layer(path, "token_moe", module, x, settings, names, outputs, hooks, batch_first, seed)


def record_feature_moe(
    path, module, x, *, gate_activation="quick_gelu", expert_activation="relu", names=None, outputs=("y", "logits", "weights"),
    hooks=None, seed=0,
):  # fmt: skip
    """A dense mixture on x [B, D]; the defaults are those of the published MoE."""
    settings = {"gate_activation": gate_activation, "expert_activation": expert_activation}
    record_layer(path, "feature_moe", module, x, settings, names, outputs, hooks, False, seed)


def record_fol(path, loss, logits, weights, groups, *, lambda_distance=1e-4, lambda_dispersion=1e-4, blur=1e-4, scaling=0.5):
    """`loss(logits, weights, groups)` -> the loss without its cross entropy, or a dict with it as `fol` and other results of the kind.

    logits [B, B]; weights: a list of gates' final weights [.., E]; groups: a list of (logits, weights).
    """
    leaf = lambda t: torch.as_tensor(t).detach().to(F64).requires_grad_(True)  # noqa: E731
    flat = lambda all: [leaf(torch.as_tensor(w).reshape(-1, w.shape[-1])) for w in all]  # noqa: E731
    logits, weights = leaf(logits), flat(weights)
    groups = [(leaf(other).detach(), [w.detach() for w in flat(own)]) for other, own in groups]
    found = loss(logits, weights, groups)
    found = found if isinstance(found, dict) else {"fol": found}
    found["fol"].backward()
    tensors = {"logits": logits, **{f"weights{i}": w for i, w in enumerate(weights)}}
    for g, (other, own) in enumerate(groups):
        tensors |= {f"group{g}.logits": other, **{f"group{g}.weights{i}": w for i, w in enumerate(own)}}
    gradient = lambda t: torch.zeros_like(t) if t.grad is None else t.grad  # noqa: E731
    tensors |= {**found, "d.logits": gradient(logits), **{f"d.weights{i}": gradient(w) for i, w in enumerate(weights)}}
    settings = {"samples": len(logits), "layers": len(weights), "groups": len(groups)}
    settings |= {"lambda_distance": lambda_distance, "lambda_dispersion": lambda_dispersion, "blur": blur, "scaling": scaling, "p": 2}
    write(path, "fol", settings, tensors)


def moments_by_group(x, group, count):
    """Plain PyTorch: (mean, unbiased variance), each [G, M]; of no rows and of a single row 0."""
    mean, variance = [], []
    for g in range(count):
        rows = x[group == g]
        mean.append(rows.mean(0) if len(rows) else x.new_zeros(x.shape[1]))
        variance.append(rows.var(0) if len(rows) > 1 else x.new_zeros(x.shape[1]))
    return torch.stack(mean), torch.stack(variance)


def record_group_moments(path, x, group, *, groups=None, moments=moments_by_group, seed=0):
    """`moments(x, group, G)` -> (mean, variance), each [G, M], of x [N, M] and group [N], -1 for a row in none."""
    x, group = torch.as_tensor(x).detach().to(F64).requires_grad_(True), torch.as_tensor(group).to(torch.int64)
    count = int(group.max()) + 1 if groups is None else groups
    mean, variance = moments(x, group, count)
    generator = torch.Generator().manual_seed(seed)
    dmean, dvariance = (torch.randn(mean.shape, generator=generator, dtype=F64) for _ in range(2))
    ((mean * dmean).sum() + (variance * dvariance).sum()).backward()
    tensors = {"x": x, "group": group, "dmean": dmean, "dvariance": dvariance, "mean": mean, "variance": variance, "dx": x.grad}
    tensors["count"] = torch.bincount(group[group >= 0], minlength=count)
    write(path, "group_moments", {"rows": len(x), "columns": x.shape[1], "groups": count}, tensors)


def record_metrics(path, probability, label, attributes, *, figures=None):
    """`attributes`: {name: groups [S], -1 for unknown}. `figures(probability, label, attributes)` -> {`auc`, `attr0.es_auc`, ..: value};
    without it the case holds inputs alone, and a replay writes every figure."""
    results = {} if figures is None else figures(np.asarray(probability), np.asarray(label), attributes)
    tensors = {name: torch.as_tensor(np.asarray(value, dtype=np.float64)) for name, value in results.items()}
    tensors |= {"probability": torch.as_tensor(probability, dtype=F64), "label": torch.as_tensor(label, dtype=torch.int64)}
    tensors["attributes"] = torch.stack([torch.as_tensor(of, dtype=torch.int64) for of in attributes.values()])
    write(path, "metrics", {"samples": len(tensors["label"]), "attributes": list(attributes)}, tensors)


def record_preprocess(path, image, *, size=224, transform=None):
    """`transform(image)` -> pixels [3, S, S] of a grey image u8 [H, W]; without it the case holds the image alone."""
    image = np.asarray(image, dtype=np.uint8)
    tensors = {"image": torch.as_tensor(image.copy())}
    if transform is not None:
        tensors["pixels"] = torch.as_tensor(np.asarray(transform(image))).to(F64)
    write(path, "preprocess", {"size": size}, tensors)


def run_clip(model, image, ids):
    """A model of Hugging Face, OpenAI or open_clip -> unit embeddings and logits [B, B] per image."""
    if hasattr(model, "vision_model"):
        out = model(input_ids=ids, pixel_values=image)
        return {"image_embeds": out.image_embeds, "text_embeds": out.text_embeds, "logits": out.logits_per_image}
    unit = lambda t: t / t.norm(dim=-1, keepdim=True)  # noqa: E731
    image, text = unit(model.encode_image(image)), unit(model.encode_text(ids))
    return {"image_embeds": image, "text_embeds": text, "logits": model.logit_scale.exp() * image @ text.T}


def record_clip(path, model, image, ids, *, names=None, forward=run_clip, **settings):
    """A plain CLIP on image [B, 3, S, S] and ids [B, T]."""
    model, image, ids = in_f64(model), torch.as_tensor(image).to(F64), torch.as_tensor(ids).to(torch.int64)
    with torch.no_grad():
        found = forward(model, image, ids)
    own, _ = values_and_gradients(model, lambda named: clip_tensors(named, names))
    settings = {"config": clip_sizes(model, own, image), "hidden_act": hidden_act(model), **settings}
    write(path, "clip", settings, {**own, "image": image, "ids": ids, **found})


def record_fair_moe_step(
    path, model, step, image, ids, groups, *, preset="paper", top_k=3, capacity_vision=None, capacity_text=None,
    expert_activation="quick_gelu", subtract_input=False, lambda_distance=1e-6, lambda_dispersion=1e-4, names=None,
):  # fmt: skip
    """`step(model, image, ids, groups)` -> a dict of results with `loss` among them; groups: a list of (image, ids).

    The model's parameters are translated from the published names or Hugging Face's; `names`: {how yours begin: how the case's do}.
    """
    model, image, ids = in_f64(model), torch.as_tensor(image).to(F64), torch.as_tensor(ids).to(torch.int64)
    groups = [(torch.as_tensor(i).to(F64), torch.as_tensor(t).to(torch.int64)) for i, t in groups]
    found = step(model, image, ids, groups)
    found["loss"].backward()
    own, gradients = values_and_gradients(model, lambda named: clip_tensors(named, names))
    tensors = {**own, "image": image, "ids": ids, **found, **{f"d.{name}": d for name, d in gradients.items()}}
    for g, (other, texts) in enumerate(groups):
        tensors |= {f"group{g}.image": other, f"group{g}.ids": texts}
    settings = {
        "config": {**clip_sizes(model, own, image), "groups": len(groups)}, "hidden_act": hidden_act(model),
        "preset": preset, "top_k": top_k,
        "capacity_vision": capacity_vision, "capacity_text": capacity_text, "expert_activation": expert_activation,
        "subtract_input": subtract_input, "lambda_distance": lambda_distance, "lambda_dispersion": lambda_dispersion,
        "samples": len(image), "group_samples": len(groups[0][0]) if groups else 0,
    }  # fmt: skip
    write(path, "fair_moe_step", settings, tensors)


def check(path, binary, bound=None):
    """Replays a case in f64, prints each result's relative error, and says whether all are within the bound."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.safetensors"
        subprocess.run([binary, "run", str(path), "--device", "cpu", "--dtype", "f64", "--out", str(out)], check=True)
        got, want = load_file(out), load_file(path)
    bound = bound or BOUNDS.get(kind_of(path), 1e-10)
    # A gradient that is zero is measured against a thousandth of the largest.
    floor = max([float(t.norm()) for name, t in want.items() if name.startswith("d.")], default=0.0) / 1000
    good = True
    for name, value in got.items():
        if name not in want:
            print(f"{name:60} not recorded")
            continue
        a, b = value.to(F64), want[name].to(F64)
        same = torch.equal(a.isnan(), b.isnan())
        a, b = a.nan_to_num(), b.nan_to_num()
        error = float((a - b).norm() / max(float(b.norm()), floor if name.startswith("d.") else 0.0, 1e-300))
        good &= same and error <= bound
        print(f"{name:60} {error:.1e}{'' if same and error <= bound else f'  ABOVE {bound:.0e}'}")
    return good


def kind_of(path):
    """The kind of a recorded case."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["kind"])


def load(path):
    """The tensors of a file by name; of a file with one array `x`."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npy":
        return {"x": torch.as_tensor(np.load(path))}
    if path.suffix == ".npz":
        return {name: torch.as_tensor(value) for name, value in np.load(path).items()}
    loaded = torch.load(path, weights_only=True)
    return loaded if isinstance(loaded, dict) else {"x": loaded}


def find(what):
    """FILE.py:NAME -> what stands there; any other file -> what torch.save put there."""
    file, _, name = what.partition(":")
    if not file.endswith(".py"):
        return torch.load(file, weights_only=False)
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec.loader.exec_module(module)
    return getattr(module, name)


def gathered(inputs, first, *others):
    """The groups among a file's tensors: group0.FIRST, group0.OTHERS, .., in order."""
    count = sum(1 for name in inputs if name.startswith("group") and name.endswith(f".{first}"))
    return [tuple(inputs[f"group{g}.{name}"] for name in (first, *others)) for g in range(count)]


def weights_of(inputs, prefix=""):
    """weights0, weights1, .. among a file's tensors."""
    return [inputs[f"{prefix}weights{i}"] for i in range(len(inputs)) if f"{prefix}weights{i}" in inputs]


def main():
    kinds = ["token_moe", "feature_moe", "fol", "group_moments", "metrics", "preprocess", "clip", "fair_moe_step"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--out", required=True, help="the case to write")
    parser.add_argument("--module", help="FILE.py:NAME of a module or of a function that gives one, or a file saved by torch.save")
    parser.add_argument("--call", help="FILE.py:NAME of a function of yours: loss, moments, figures, transform, forward or step")
    parser.add_argument("--inputs", help="a file with the case's inputs under their names")
    parser.add_argument("--x", help="a file with x alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, such as top_k=2 or capacity=null")
    parser.add_argument("--name", action="append", default=[], metavar="OURS=YOURS", help="experts.fc1.weight=experts.{e}.a.weight")
    parser.add_argument("--hook", action="append", default=[], metavar="RESULT=SUBMODULE", help="weights=router.out")
    parser.add_argument("--outputs", help="what the module returns, in order: y,weights")
    parser.add_argument("--check", metavar="BINARY", help="replay the case with this fair-moe")
    args = parser.parse_args()

    def value(text):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text

    pairs = lambda all: dict(text.split("=", 1) for text in all)  # noqa: E731
    options = {key: value(text) for key, text in pairs(args.set).items()}
    optional = {"names": pairs(args.name), "hooks": pairs(args.hook), "outputs": args.outputs and args.outputs.split(",")}
    options |= {key: given for key, given in optional.items() if given}
    inputs = (load(args.inputs) if args.inputs else {}) | ({"x": next(iter(load(args.x).values()))} if args.x else {})
    call = find(args.call) if args.call else None
    if args.module:
        module = find(args.module)
        module = module if isinstance(module, torch.nn.Module) else module()
    given = lambda name: {name: call} if call else {}  # noqa: E731
    match args.kind:
        case "token_moe":
            record_token_moe(args.out, module, inputs["x"], **options)
        case "feature_moe":
            record_feature_moe(args.out, module, inputs["x"], **options)
        case "fol":
            groups = [(g[0], weights_of(inputs, f"group{i}.")) for i, g in enumerate(gathered(inputs, "logits"))]
            record_fol(args.out, call, inputs["logits"], weights_of(inputs), groups, **options)
        case "group_moments":
            record_group_moments(args.out, inputs["x"], inputs["group"], **given("moments"), **options)
        case "metrics":
            attributes = {name: of for name, of in inputs.items() if name not in ("probability", "label")}
            record_metrics(args.out, inputs["probability"], inputs["label"], attributes, **given("figures"))
        case "preprocess":
            record_preprocess(args.out, next(iter(inputs.values())), **given("transform"), **options)
        case "clip":
            record_clip(args.out, module, inputs["image"], inputs["ids"], **given("forward"), **options)
        case "fair_moe_step":
            record_fair_moe_step(args.out, module, call, inputs["image"], inputs["ids"], gathered(inputs, "image", "ids"), **options)
    if args.check and not check(args.out, args.check):
        sys.exit(1)


if __name__ == "__main__":
    main()
