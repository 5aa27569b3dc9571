"""Writes a checkpoint as one file in the original CompVis layout: the inverse of the conversion that is under test.

Written from the layout of the CompVis modules (openaimodel.UNetModel, autoencoder.AutoencoderKL), not from diffusers'
conversion, so that the two check each other. Full-size models work too: float32 weights are written without a copy.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

UNET_TOP = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
BERT_TOP = {"embed_tokens": "token_emb", "embed_positions": "pos_emb.emb", "layer_norm": "norm"}
# Of a layer: the number in the pair of original ones, and the name there.
BERT_LAYER = {
    **{"self_attn_layer_norm": (0, "0"), "final_layer_norm": (1, "0"), "fc1": (1, "1.net.0.0"), "fc2": (1, "1.net.2")},
    **{f"self_attn.{letter}_proj": (0, f"1.to_{letter}") for letter in "qkv"},
    "self_attn.out_proj": (0, "1.to_out"),
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

PLAIN_ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}


def save_single_file(unet: nn.Module, vae: nn.Module, text_encoder: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Writes the three modules to `path` in `dtype`, with leftovers such as published files have."""
    text = {f"cond_stage_model.transformer.text_model.{key}": t for key, t in text_encoder.state_dict().items()}
    save_tensors(unet_tensors(unet) | vae_tensors(vae) | text, path, dtype)


def save_tensors(floats: dict[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Writes tensors to `path` in `dtype`, with the leftovers."""
    leftovers = {
        "betas": torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.diffusion_modelspare": torch.zeros(4, 4),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    save_file({key: t.detach().to(dtype).contiguous() for key, t in floats.items()} | leftovers, path)


def open_clip_tensors(text_encoder: nn.Module, prefix: str, *, skipped: int = 0) -> dict[str, Tensor]:
    """Returns a text encoder's tensors as open_clip's TextTransformer has them.

    skipped: how many layers the original has at its end that the module has not; they hold what no one may read.
    """
    state = {re.sub(r"^text_model\.", "", key): tensor for key, tensor in text_encoder.state_dict().items()}
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
        "text_projection": state["text_projection.weight"].T if "text_projection.weight" in state else torch.ones(4, 4),
    }
    layers = text_encoder.config.num_hidden_layers
    for layer in range(layers + skipped):
        spoil = 1.0 if layer < layers else float("nan")
        ours, theirs = f"encoder.layers.{min(layer, layers - 1)}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            stacked = torch.cat([state[f"{ours}.self_attn.{letter}_proj.{leaf}"] for letter in "qkv"])
            tensors[f"{theirs}.attn.in_proj_{leaf}"] = stacked * spoil
            for new, old in OPEN_CLIP_LAYER.items():
                tensors[f"{theirs}.{old}.{leaf}"] = state[f"{ours}.{new}.{leaf}"] * spoil
    return {prefix + key: tensor for key, tensor in tensors.items()}


def control_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns a ControlNet's tensors by their key in the original layout, that of lllyasviel's cldm.ControlNet."""
    found = {}
    for key, tensor in network.state_dict().items():
        name = re.sub(r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0", key)
        name = re.sub(r"^controlnet_mid_block", "middle_block_out.0", name)
        name = re.sub(r"^controlnet_cond_embedding\.conv_in", "input_hint_block.0", name)
        name = re.sub(r"^controlnet_cond_embedding\.conv_out", "input_hint_block.14", name)
        name = re.sub(
            r"^controlnet_cond_embedding\.blocks\.(\d+)", lambda m: f"input_hint_block.{2 * int(m[1]) + 2}", name
        )
        found[f"control_model.{name if name != key else _unet_key(key, network.config.layers_per_block, [])}"] = tensor
    return found


def bert_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns LDM-BERT's tensors as x_transformer.TransformerWrapper has them."""
    found = {}
    for key, tensor in model.state_dict().items():
        module, leaf = key.removeprefix("model.").rsplit(".", 1)
        name = BERT_TOP.get(module, module)
        if match := re.match(r"layers\.(\d+)\.(.*)", module):
            second, part = BERT_LAYER[match[2]]
            name = f"attn_layers.layers.{2 * int(match[1]) + second}.{part}"
        found[f"cond_stage_model.transformer.{name}.{leaf}"] = tensor
    return found


def unet_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """Returns the UNet's tensors by their key in the CompVis layout."""
    layers = unet.config.layers_per_block
    crossed = [block.startswith("CrossAttn") for block in unet.config.up_block_types]
    return {
        f"model.diffusion_model.{_unet_key(key, layers, crossed)}": tensor for key, tensor in unet.state_dict().items()
    }


def _unet_key(key: str, layers: int, crossed: list[bool]) -> str:
    module, leaf = key.rsplit(".", 1)
    if module in UNET_TOP:
        return f"{UNET_TOP[module]}.{leaf}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, i, rest = match.groups()
        return f"middle_block.{2 * int(i) + (kind == 'attentions')}.{_unet_layer(kind, rest)}"
    side, block, kind, i, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
    start = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{start + layers + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{start + layers}.{1 + crossed[int(block)]}.{rest}"
    name, first = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
    return f"{name}.{first + start + int(i)}.{int(kind == 'attentions')}.{_unet_layer(kind, rest)}"


def _unet_layer(kind: str, rest: str) -> str:
    return _renamed(rest, UNET_RESNET) if kind == "resnets" else rest


def plain_unet_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a UNet2DModel by their key in the CompVis layout.

    There, an attention's queries, keys and values are rows of one tensor: by head, then by kind, then by channel.
    """
    config, tensors, found = unet.config, unet.state_dict(), {}
    attends = [block.startswith("Attn") for block in config.up_block_types]
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition(".")
        block, _, layer = module.rpartition(".attentions.")
        if not block:
            resampled = re.match(r"(.*)\.(down|up)samplers\.0\.(?!conv\.)(.*)", key)
            name = _unet_key(
                f"{resampled[1]}.{resampled[2]}samplers.0.conv.{leaf}" if resampled else key,
                config.layers_per_block,
                attends,
            )
            if resampled:
                name = f"{name.rsplit('.', 2)[0]}.{_renamed(resampled[3], UNET_RESNET)}"
            found[f"model.diffusion_model.{name}"] = tensor
            continue
        index, _, part = layer.partition(".")
        place = _unet_key(f"{block}.attentions.{index}.x.{leaf}", config.layers_per_block, attends).removesuffix(
            f".x.{leaf}"
        )
        if part == "to_q":
            heads = unet.get_submodule(f"{block}.attentions.{index}").heads
            rows = [
                tensors[f"{block}.attentions.{index}.{one}.{leaf}"].unflatten(0, (heads, -1))
                for one in ("to_q", "to_k", "to_v")
            ]
            packed = torch.stack(rows, 1).flatten(0, 2)
            found[f"model.diffusion_model.{place}.qkv.{leaf}"] = packed[..., None] if packed.ndim == 2 else packed
        elif part in PLAIN_ATTENTION:
            one = tensor[..., None] if tensor.ndim == 2 else tensor
            found[f"model.diffusion_model.{place}.{PLAIN_ATTENTION[part]}.{leaf}"] = one
    return found


def averages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns moving averages of a UNet's tensors, which are the tensors themselves, and other raw weights."""
    return {key: tensor + 1 for key, tensor in tensors.items()} | {
        f"model_ema.{key.removeprefix('model.').replace('.', '')}": tensor for key, tensor in tensors.items()
    }


def vae_tensors(vae: nn.Module) -> dict[str, Tensor]:
    """Returns the VAE's tensors by their key in the CompVis layout, where attention is a 1x1 convolution."""
    levels, tensors = len(vae.config.block_out_channels), {}
    for key, tensor in vae.state_dict().items():
        attention = ".attentions." in key and tensor.ndim == 2
        tensors[f"first_stage_model.{_vae_key(key, levels)}"] = tensor[:, :, None, None] if attention else tensor
    return tensors


def _vae_key(key: str, levels: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.match(r"(.*)\.mid_block\.attentions\.0\.(.*)", key):
        return f"{match[1]}.mid.attn_1.{_renamed(match[2], VAE_ATTENTION)}"
    if match := re.match(r"(.*\.attentions\.\d)\.(.*)", key):
        key = f"{match[1].replace('attentions', 'attn')}.{_renamed(match[2], VAE_ATTENTION)}"
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
    key = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", key)
    return key.replace(".resnets.", ".block.").replace("samplers.0.", "sample.")


def _renamed(rest: str, names: dict[str, str]) -> str:
    module, leaf = rest.rsplit(".", 1)
    return f"{names[module]}.{leaf}"
