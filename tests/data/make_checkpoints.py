"""Writes checkpoints as PyTorch and transformers write them, and beside each, in *_expected.safetensors, what PyTorch says of them.

- checkpoint_openai.pt: OpenAI's own CLIP class, traced and saved by torch.jit, in half precision as released.
- checkpoint_huggingface/: transformers' CLIPModel with save_pretrained; heads and activation stand in its config.json.
- checkpoint_fairmoe.pth: the state dictionary of Fair-MoE's structure in the dictionary of its training script.
- checkpoint_views.pth: tensors that share, transpose and skip numbers, in every type of number.

Needs torch, transformers, safetensors, numpy, and the file model.py of the package openai-clip.
"""
import importlib.util
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

HERE = Path(__file__).parent


def openai():
    """OpenAI's model.py, without the rest of its package, which needs torchvision."""
    package = importlib.util.find_spec("clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("clip_model", Path(package) / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expect(name, **tensors):
    path = HERE / f"{name}_expected.safetensors"
    save_file({k: v.detach().double().contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)


def shake(model, seed):
    """Gives biases and norms values of their own too, and rounds all to half precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
            p.copy_(p.half().float())


def inputs(image, context, vocabulary):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 3, image, image, generator=generator)
    ids = torch.randint(1, vocabulary - 1, (2, context), generator=generator)
    ids[0, 3], ids[0, 4:], ids[1, -1] = vocabulary - 1, 0, vocabulary - 1
    return pixels, ids


def make_openai():
    clip = openai()
    torch.manual_seed(1)
    sizes = dict(embed_dim=16, image_resolution=16, vision_layers=1, vision_width=64, vision_patch_size=8)
    text = dict(context_length=7, vocab_size=30, transformer_width=64, transformer_heads=1, transformer_layers=1)
    model = clip.CLIP(**sizes, **text).eval()
    shake(model, 2)
    pixels, ids = inputs(16, 7, 30)
    # The released archives have these beside the parameters.
    del model.vocab_size
    for name, size in [("input_resolution", 16), ("vocab_size", 30)]:
        model.register_buffer(name, torch.tensor(size))
    traced = torch.jit.trace(model, (pixels, ids))
    for module in traced.modules():
        for name, p in module.named_parameters(recurse=False):
            if name in ("weight", "bias", "in_proj_weight", "in_proj_bias", "proj", "text_projection"):
                p.data = p.data.half()
    torch.jit.save(traced, HERE / "checkpoint_openai.pt")
    model = model.double()
    # OpenAI's own goes through single precision.
    clip.LayerNorm.forward = nn.LayerNorm.forward
    for block in model.transformer.resblocks:
        block.attn_mask = block.attn_mask.double()
    logits, _ = model(pixels.double(), ids)
    unit = lambda x: x / x.norm(dim=1, keepdim=True)
    embeds = dict(image_embeds=unit(model.encode_image(pixels.double())), text_embeds=unit(model.encode_text(ids)))
    expect("checkpoint_openai", pixels=pixels, ids=ids, logits=logits, **embeds)


def make_huggingface():
    torch.manual_seed(4)
    both = dict(intermediate_size=128, hidden_size=32, hidden_act="gelu", projection_dim=16)
    vision = dict(num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8, **both)
    text = dict(num_hidden_layers=1, num_attention_heads=2, vocab_size=30, max_position_embeddings=7, eos_token_id=29, **both)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    shake(model, 5)
    folder = HERE / "checkpoint_huggingface"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    pixels, ids = inputs(16, 7, 30)
    out = model.double()(input_ids=ids, pixel_values=pixels.double())
    embeds = dict(image_embeds=out.image_embeds, text_embeds=out.text_embeds)
    expect("checkpoint_huggingface", pixels=pixels, ids=ids, logits=out.logits_per_image, **embeds)


class Expert(nn.Module):
    def __init__(self, width):
        super().__init__()
        parts = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.ReLU()), ("c_proj", nn.Linear(4 * width, width))]
        self.network = nn.Sequential(OrderedDict(parts))


class Mixture(nn.Module):
    """Structure and names of the published mixtures, which are all that a state dictionary tells."""

    def __init__(self, width, experts):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, experts))
        self.experts = nn.ModuleList(Expert(width) for _ in range(experts))


def make_fairmoe():
    clip = openai()
    torch.manual_seed(6)
    # OpenAI's constructor takes heads of width 64 alone; a small file has narrower ones.
    model = nn.Module()
    visual = clip.VisionTransformer(input_resolution=16, patch_size=8, width=16, layers=2, heads=2, output_dim=8)
    model.visual, model.transformer = visual, clip.Transformer(16, 1, 2, None)
    model.token_embedding, model.ln_final = nn.Embedding(12, 16), clip.LayerNorm(16)
    model.positional_embedding, model.text_projection = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.randn(16, 8))
    model.logit_scale = nn.Parameter(torch.tensor(2.5))
    visual.transformer.resblocks[-1].mlp = Mixture(16, 3)
    model.transformer.resblocks[-1].mlp = Mixture(16, 3)
    model.tokenmoe11, model.tokenmoe11TxT = visual.transformer.resblocks[-1].mlp, model.transformer.resblocks[-1].mlp
    model.moe, model.moetext = Mixture(8, 2), Mixture(8, 2)
    shake(model, 7)
    optimizer = torch.optim.Adam([{"params": model.moe.parameters(), "lr": 1e-5}], betas=(0.1, 0.1))
    sum(p.square().sum() for p in model.moe.parameters()).backward()
    optimizer.step()
    state = {"epoch": 3, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(state | {"loss": np.float64(0.5)}, HERE / "checkpoint_fairmoe.pth")
    expected = {}
    places = [("vision_model.encoder.layers.1.mlp", model.tokenmoe11), ("text_model.encoder.layers.0.mlp", model.tokenmoe11TxT)]
    for name, mixture in [*places, ("vision_feature_moe", model.moe), ("text_feature_moe", model.moetext)]:
        for kind in ("weight", "bias"):
            expected[f"{name}.gate.fc1.{kind}"] = getattr(mixture.gate[0], kind)
            expected[f"{name}.gate.fc2.{kind}"] = getattr(mixture.gate[2], kind)
            for ours, theirs in [("fc1", "c_fc"), ("fc2", "c_proj")]:
                stack = [getattr(getattr(expert.network, theirs), kind) for expert in mixture.experts]
                expected[f"{name}.experts.{ours}.{kind}"] = torch.stack(stack)
    block = visual.transformer.resblocks[1]
    for i, part in enumerate("qkv"):
        expected[f"vision_model.encoder.layers.1.self_attn.{part}_proj.weight"] = block.attn.in_proj_weight[16 * i : 16 * (i + 1)]
        expected[f"vision_model.encoder.layers.1.self_attn.{part}_proj.bias"] = block.attn.in_proj_bias[16 * i : 16 * (i + 1)]
    expected["vision_model.encoder.layers.1.layer_norm2.weight"] = block.ln_2.weight
    expected["vision_model.encoder.layers.0.mlp.fc1.weight"] = visual.transformer.resblocks[0].mlp.c_fc.weight
    expected["visual_projection.weight"] = visual.proj.T
    expected["text_projection.weight"] = model.text_projection.T
    expected["text_model.embeddings.position_embedding.weight"] = model.positional_embedding
    expected["logit_scale"] = model.logit_scale
    expect("checkpoint_fairmoe", **expected)


def make_views():
    base = torch.arange(120, dtype=torch.float32) / 7
    views = {
        "shared": base[30:60].view(5, 6),
        "transposed": base.view(10, 12).T,
        "every_other": base[3::2][:40].view(8, 5),
        "permuted": base.view(2, 3, 4, 5).permute(2, 0, 3, 1),
        "expanded": base[:3].view(3, 1).expand(3, 4),
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "scalar": base[17],
        "empty": base[:0],
        "double": base.double() / 3,
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "parameter": nn.Parameter(base[:5].clone()),
    }
    views = {f"module.vision_model.{name}": tensor for name, tensor in views.items()}
    integers = {"module.vision_model.long": torch.arange(4), "module.vision_model.bool": torch.tensor([True, False])}
    torch.save(OrderedDict(views | integers), HERE / "checkpoint_views.pth")
    torch.save({"state_dict": views}, HERE / "checkpoint_views_protocol4.pth", pickle_protocol=4)
    expect("checkpoint_views", **{name.removeprefix("module."): t for name, t in views.items()})


if __name__ == "__main__":
    for make in (make_openai, make_huggingface, make_fairmoe, make_views):
        make()
