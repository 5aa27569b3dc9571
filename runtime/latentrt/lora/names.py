"""The names by which LoRA files call a checkpoint's layers, and what each key of a file says.

Kohya's trainers write a layer's path with underscores (`lora_unet_down_blocks_0_..`), which cannot be split again; so
every layer's names are made from the checkpoint and looked up. For SDXL those trainers name the UNet's layers as the
original implementation does; diffusers and peft write the path with points, older versions with an attention processor
in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

# How files call a component, in front of the layer's path, with underscores: diffusers; kohya's trainers; ComfyUI; of
# one module alone, peft and LyCORIS, whose encoders are told from each other by their widths.
ALONE = ("", "lycoris_")
WITHIN = ("text_encoders_{}_", "text_encoders_{}_transformer_", "{}_", "{}_transformer_")
PREFIXES = {
    "unet": ("unet_", "lora_unet_", "lycoris_unet_", "diffusion_model_", "model_diffusion_model_", *ALONE),
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
# What wrappers put into a layer's path: processors of attention, peft, torch.compile.
WRAPPERS = re.compile(r"\.processor(?=[._]|$)|base_model\.model\.|_orig_mod\.|^module\.")
# What a layer's name begins with after a prefix, wherever it is of a model that is read here.
BEGINNINGS = (
    *("down_blocks_", "mid_block_", "up_blocks_", "conv_", "time_embedding_", "add_embedding_", "time_embed_"),
    *("input_blocks_", "middle_block_", "output_blocks_", "label_emb_", "out_", "text_model_", "encoder_layers_"),
    *("embeddings_", "final_layer_norm", "text_projection"),
)

# openaimodel.UNetModel's names for what stands outside its blocks, and for the layers of a ResNet.
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
    """Returns the layer that a file's key is about, with underscores, and which tensor of it; None for other keys.

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
    """The name by which a layer is looked up: its path in a file with underscores, without what wraps modules."""
    return flat(WRAPPERS.sub("", path))


def is_named(layer: str) -> bool:
    """Whether a layer is called in one of the ways that are known, of whichever model it is."""
    prefixes = {prefix for some in PREFIXES.values() for prefix in some}
    return any(layer.startswith(f"{prefix}{begin}") for prefix in prefixes for begin in BEGINNINGS)


def weights_by_name(component: str, keys: Iterable[str]) -> dict[str, str]:
    """Returns the key of each of a component's weights, by every name that a file may have for its layer.

    keys: those of the component's tensors, of which those that end in ".weight" are meant.
    """
    paths = [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]
    names_of = unet_names if component == "unet" else text_names
    return {
        prefix + flat(name): f"{path}.weight"
        for path, name in names_of(paths)
        for prefix in PREFIXES.get(component, ())
    }


def text_names(paths: list[str]) -> Iterator[tuple[str, str]]:
    """A text encoder's layers: as transformers 5 and as all older versions call each, and as diffusers once did."""
    for path in paths:
        bare = path.removeprefix("text_model.")
        for name in (bare, re.sub(r"\b([qkv]|out)_proj$", r"to_\1", bare)):
            yield path, name
            yield path, f"text_model.{name}"


def unet_names(paths: list[str]) -> Iterator[tuple[str, str]]:
    """A UNet's layers: as diffusers calls each, as its attention processors did, and as the original implementation."""
    layers = layers_a_level(paths)
    for path in paths:
        yield path, path
        yield path, path.removesuffix(".0") if path.endswith("to_out.0") else path
        if layers and (name := original_name(path, layers, paths)):
            yield path, name


def layers_a_level(paths: Iterable[str]) -> int | None:
    """Returns how many ResNets each level of the way down has; None where they differ, as the original's cannot."""
    found = {match.groups() for path in paths if (match := DOWN_RESNET.match(path))}
    counts = set(Counter(level for level, _ in found).values())
    return counts.pop() if len(counts) == 1 else None


def original_name(path: str, layers: int, paths: list[str]) -> str | None:
    """Returns what the original implementation calls a layer of the UNet; None for what it does not have.

    layers: ResNets a level. paths: those of all layers, among which are those of attention.

    >>> original_name("up_blocks.0.upsamplers.0.conv", 2, [])
    'output_blocks.2.1.conv'
    """
    if path in ORIGINAL_TOP:
        return ORIGINAL_TOP[path]
    match = BLOCK.fullmatch(path)
    if match is None:
        return None
    side, level, kind, place, rest = match.groups()
    first = int(level or 0) * (layers + 1)
    rest = ORIGINAL_RESNET.get(rest, rest) if kind == "resnets" else rest
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op"
    if kind == "upsamplers":
        crossed = any(other.startswith(f"up_blocks.{level}.attentions.") for other in paths)
        return f"output_blocks.{first + layers}.{1 + crossed}.{rest}"
    second = int(kind == "attentions")
    if side is None:
        return f"middle_block.{2 * int(place) + second}.{rest}"
    block = f"input_blocks.{1 + first + int(place)}" if side == "down" else f"output_blocks.{first + int(place)}"
    return f"{block}.{second}.{rest}"


def flat(path: str) -> str:
    """The path with underscores."""
    return path.replace(".", "_")
