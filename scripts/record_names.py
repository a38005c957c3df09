"""What the parameters of published codes are called in a case. Each function takes tensors by name, parameters or their gradients, and gives
them under the case's names: renamed, turned, cut or stacked."""

import re

import torch

# A layer's parts under the names of the published classes, of Hugging Face's and of the case itself.
MAPS = {"c_fc": "fc1", "fc1": "fc1", "0": "fc1", "c_proj": "fc2", "fc2": "fc2", "2": "fc2", "glu": "glu"}
MAPS |= {"gate_proj": "glu", "w1": "glu", "up_proj": "fc1", "w3": "fc1", "down_proj": "fc2", "w2": "fc2"}
EXPERT = re.compile(rf"(?:(experts)\.(?:(\d+)\.)?|shared(?:_expert)?\.)(?:network\.)?({'|'.join(MAPS)})\.(weight|bias)")
GATE = re.compile(r"gate\.(?:(0|fc1|2|fc2)\.)?(weight|bias)")
# A transformer block's parts in OpenAI's CLIP and open_clip.
BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn": "self_attn"}
OPENAI = [
    (r"visual\.(class_embedding)", r"vision_model.embeddings.\1"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"visual\.proj", "visual_projection.weight"),
    (r"visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.", "text_model.final_layer_norm."),
    (r"text_projection$", "text_projection.weight"),
    (r"moe\.", "vision_feature_moe."),
    (r"moetext\.", "text_feature_moe."),
]


def layer_name(name):
    """(the case's name, the expert's number or None) of a layer's parameter; None for one that is not known."""
    if gate := GATE.fullmatch(name):
        return f"gate.{'fc1' if gate[1] in ('0', 'fc1') else 'fc2'}.{gate[2]}", None
    if expert := EXPERT.fullmatch(name):
        return f"{'experts' if expert[1] else 'shared'}.{MAPS[expert[3]]}.{expert[4]}", expert[2] and int(expert[2])
    return None


def given_name(name, names):
    """The same by a user's own table: {the case's name: theirs, `{e}` for an expert's number}."""
    for ours, theirs in (names or {}).items():
        pattern = re.escape(theirs).replace(re.escape("{e}"), r"(\d+)")
        if found := re.fullmatch(pattern, name):
            return ours, int(found[1]) if found.groups() else None
    return None


def layer_tensors(named, names=None):
    """A layer's tensors; those of single experts are stacked."""
    whole, stacks = {}, {}
    for name, tensor in named.items():
        found = given_name(name, names) or layer_name(name)
        if found is None:
            raise ValueError(f"no layer has a parameter {name}: name it, such as {{'experts.fc1.weight': '{name}'}}")
        ours, expert = found
        if expert is None:
            whole[ours] = tensor
        else:
            stacks.setdefault(ours, {})[expert] = tensor
    whole |= {ours: torch.stack([parts[e] for e in sorted(parts)]) for ours, parts in stacks.items()}
    if "gate.fc2.weight" not in whole or "experts.fc1.weight" not in whole:
        raise ValueError(f"a layer has a gate and experts, but this module has {sorted(whole)}")
    return whole


def clip_tensors(named, names=None):
    """A model's tensors under Hugging Face's names; `names`: {how a name begins: how it begins in the case}."""
    whole, mixtures = {}, {}
    for name, tensor in named.items():
        if name.startswith("tokenmoe"):
            continue  # the published model has its token mixtures under a second name
        for theirs, ours in (names or {}).items():
            name = ours + name[len(theirs) :] if name.startswith(theirs) else name
        ours = from_openai(name)
        # The published projections stand input first.
        tensor = tensor.T if ours.endswith("_projection.weight") and not name.endswith(".weight") else tensor
        block, dot, part = ours.rpartition("self_attn.in_proj_")
        mixture = re.fullmatch(r"(.*\.mlp\.|(?:vision|text)_feature_moe\.)((?:gate|experts|shared).*)", ours)
        if mixture:
            mixtures.setdefault(mixture[1], {})[mixture[2]] = tensor
        elif dot:
            for letter, third in zip("qkv", tensor.chunk(3)):
                whole[f"{block}self_attn.{letter}_proj.{part}"] = third
        else:
            whole[ours] = tensor
    for prefix, own in mixtures.items():
        whole |= {prefix + name: tensor for name, tensor in layer_tensors(own).items()}
    return whole


def from_openai(name):
    """Hugging Face's name of a parameter of OpenAI's; another is left as it is."""
    for pattern, ours in OPENAI:
        if found := re.match(pattern, name):
            name = found.expand(ours) + name[found.end() :]
            break
    block = re.fullmatch(r"(.*\.encoder\.layers\.\d+\.)(\w+)\.(.*)", name)
    if not block:
        return name
    part = re.sub(r"^c_fc\.", "fc1.", re.sub(r"^c_proj\.", "fc2.", block[3])) if block[2] == "mlp" else block[3]
    return f"{block[1]}{BLOCK.get(block[2], block[2])}.{part}"


def clip_sizes(model, own, image):
    """A model's sizes, from its tensors; heads from the model, or 64 wide."""
    layers = lambda tower: 1 + max(int(n.split(".")[3]) for n in own if n.startswith(f"{tower}.encoder.layers."))  # noqa: E731
    sizes = {"image": image.shape[-1], "patch": own["vision_model.embeddings.patch_embedding.weight"].shape[-1]}
    for tower, name in (("vision", "vision_model"), ("text", "text_model")):
        width = own[f"{name}.embeddings.position_embedding.weight"].shape[1]
        sizes |= {f"{tower}_width": width, f"{tower}_layers": layers(name), f"{tower}_heads": heads(model, tower) or max(1, width // 64)}
    sizes["context"] = own["text_model.embeddings.position_embedding.weight"].shape[0]
    sizes["vocab"] = own["text_model.embeddings.token_embedding.weight"].shape[0]
    sizes["embed"] = own["text_projection.weight"].shape[0]
    experts = [t.shape[0] for name, t in own.items() if name.endswith("mlp.experts.fc1.weight")]
    return {**sizes, "experts": experts[0]} if experts else sizes


def heads(model, tower):
    """How many heads attention has there, as far as the model tells."""
    config = getattr(getattr(model, "config", None), f"{tower}_config", None)
    if config is not None:
        return config.num_attention_heads
    attention = {"vision": "visual.transformer.resblocks.", "text": "transformer.resblocks."}[tower]
    found = [m.num_heads for n, m in model.named_modules() if n.startswith(attention) and isinstance(m, torch.nn.MultiheadAttention)]
    return found[0] if found else None


def hidden_act(model):
    """The activation of a model's MLPs: gelu, or quick_gelu as in every published CLIP of OpenAI's."""
    config = getattr(getattr(model, "config", None), "text_config", None)
    if config is not None:
        return config.hidden_act
    return "gelu" if any(isinstance(m, torch.nn.GELU) for m in model.modules()) else "quick_gelu"
