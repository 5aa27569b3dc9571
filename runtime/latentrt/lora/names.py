"""Names of a checkpoint's layers in LoRA files, and the layer and tensor that a key of a file names.

Kohya's trainers write a layer's path with underscores (`lora_unet_down_blocks_0_..`), which cannot be split again. So
all names of every layer are made from the checkpoint and looked up. For SDXL, kohya's trainers name the UNet's layers
as the original implementation does. diffusers and peft write the path with points, and older versions put an attention
processor into it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from latentrt.bundle.sources import DENOISERS

# Prefixes of a component before the layer's path, with underscores: diffusers; kohya's trainers; ComfyUI. peft and
# LyCORIS write none for a single module; its width then decides between two text encoders.
ALONE = ("", "lycoris_")
WITHIN = ("text_encoders_{}_", "text_encoders_{}_transformer_", "{}_", "{}_transformer_")
PREFIXES = {
    "unet": ("unet_", "lora_unet_", "lycoris_unet_", "diffusion_model_", "model_diffusion_model_", *ALONE),
    "transformer": ("transformer_", *ALONE),
    "text_encoder": (
        *("text_encoder_", "lora_te_", "lora_te1_", "lycoris_te_", "lycoris_te1_", *ALONE),
        *(prefix.format(clip) for clip in ("clip_l", "clip_h") for prefix in WITHIN),
    ),
    "text_encoder_2": (
        *("text_encoder_2_", "lora_te2_", "lycoris_te2_", *ALONE),
        *(prefix.format("clip_g") for prefix in WITHIN),
    ),
}
KEY = re.compile(
    r"(?P<layer>.+?)[._](?:"
    r"lora(?:_linear_layer)?[._](?P<half>A|B|up|down|mid)(?:(?:\.(?!weight$|bias$)[^.]+)?\.(?P<leaf>weight|bias))?"
    r"|(?P<tensor>alpha|dora_scale|diff|diff_b|w_norm|b_norm|oft_blocks|oft_diag|rescale|on_input|[ab][12]\.weight"
    r"|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.(?!weight$)[^.]+)?(?:\.weight)?)"
)
HALVES = {"A": "down", "B": "up"}
# Parts of a layer's path that wrappers add: attention processors, peft, torch.compile.
WRAPPERS = re.compile(r"\.processor(?=[._]|$)|base_model\.model\.|_orig_mod\.|^module\.")
# Beginnings of a layer's name after the prefix, in every supported model.
BEGINNINGS = (
    *("down_blocks_", "mid_block_", "up_blocks_", "conv_", "time_embedding_", "add_embedding_", "time_embed_"),
    *("input_blocks_", "middle_block_", "output_blocks_", "label_emb_", "out_", "text_model_", "encoder_layers_"),
    *("embeddings_", "final_layer_norm", "text_projection"),
    *("transformer_blocks_", "single_transformer_blocks_", "x_embedder", "context_embedder", "proj_out"),
)

# openaimodel.UNetModel's names of the layers outside its blocks, and of the layers of a ResNet.
ORIGINAL_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
ORIGINAL_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
DOWN_RESNET = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.")
BLOCK = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)(?:\.(.+))?")


def part_of(key: str) -> tuple[str, str] | None:
    """Returns the layer of a file's key, with underscores, and the name of its tensor; None for other keys.

    >>> part_of("unet.mid_block.attentions.0.proj_in.lora_A.weight")
    ('unet_mid_block_attentions_0_proj_in', 'down')
    """
    match = KEY.fullmatch(key)
    if match is None:
        return None
    layer, half = layer_of(match["layer"]), HALVES.get(match["half"], match["half"])
    if match["leaf"] == "bias":
        return (layer, "up_bias") if half == "up" else None
    return layer, half or match["tensor"] or match["magnitude"]


def layer_of(path: str) -> str:
    """The name to look a layer up by: its path in the file with underscores, without the parts that wrappers add."""
    return flat(WRAPPERS.sub("", path))


def has_known_name(layer: str) -> bool:
    """True if a layer's name has a known layout, whichever model it belongs to."""
    prefixes = {prefix for some in PREFIXES.values() for prefix in some}
    return any(layer.startswith(f"{prefix}{begin}") for prefix in prefixes for begin in BEGINNINGS)


def weights_by_name(component: str, keys: Iterable[str]) -> dict[str, str]:
    """Returns the key of each of a component's weights, under every name that a file may have for its layer.

    keys: of the component's tensors; only those that end in ".weight" count.
    """
    paths = [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]
    names_of = unet_names if component in DENOISERS else text_names
    return {
        prefix + flat(name): f"{path}.weight"
        for path, name in names_of(paths)
        for prefix in PREFIXES.get(component, ())
    }


def text_names(paths: list[str]) -> Iterator[tuple[str, str]]:
    """(path, name) of a text encoder's layers: the names of transformers 5, of older versions and of old diffusers."""
    for path in paths:
        bare = path.removeprefix("text_model.")
        for name in (bare, re.sub(r"\b([qkv]|out)_proj$", r"to_\1", bare)):
            yield path, name
            yield path, f"text_model.{name}"


def unet_names(paths: list[str]) -> Iterator[tuple[str, str]]:
    """(path, name) of a denoiser's layers: diffusers' names, its attention processors', the original UNet's."""
    layers = resnets_per_block(paths)
    for path in paths:
        yield path, path
        yield path, path.removesuffix(".0") if path.endswith("to_out.0") else path
        if layers and (name := original_name(path, layers, paths)):
            yield path, name


def resnets_per_block(paths: Iterable[str]) -> int | None:
    """Returns the number of ResNets per down block; None if blocks differ, which the original's cannot."""
    found = {match.groups() for path in paths if (match := DOWN_RESNET.match(path))}
    counts = set(Counter(level for level, _ in found).values())
    return counts.pop() if len(counts) == 1 else None


def original_name(path: str, layers: int, paths: list[str]) -> str | None:
    """Returns the original implementation's name of a layer of the UNet; None for layers that it does not have.

    layers: ResNets per down block. paths: of all layers, to tell blocks with attention.

    >>> original_name("up_blocks.0.upsamplers.0.conv", 2, [])
    'output_blocks.2.1.conv'
    """
    if path in ORIGINAL_TOP:
        return ORIGINAL_TOP[path]
    match = BLOCK.fullmatch(path)
    if match is None:
        return None
    side, level, kind, index, rest = match.groups()
    first = int(level or 0) * (layers + 1)
    rest = ORIGINAL_RESNET.get(rest, rest) if kind == "resnets" else rest
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op"
    if kind == "upsamplers":
        attends = any(other.startswith(f"up_blocks.{level}.attentions.") for other in paths)
        return f"output_blocks.{first + layers}.{1 + attends}.{rest}"
    second = int(kind == "attentions")
    if side is None:
        return f"middle_block.{2 * int(index) + second}.{rest}"
    block = f"input_blocks.{1 + first + int(index)}" if side == "down" else f"output_blocks.{first + int(index)}"
    return f"{block}.{second}.{rest}"


def flat(path: str) -> str:
    """The path with underscores."""
    return path.replace(".", "_")
