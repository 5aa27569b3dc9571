"""First stages alone: the autoencoders that the latent diffusion paper publishes by themselves, and diffusers' folders.

An original file has no config. Its shapes give all of it but the latents' factor: widths, levels, the codebook, and
the levels with attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.family import Family, Slot
from latentrt_export.checkpoint.folder import config_in, folder_source
from latentrt_export.checkpoint.layouts import Shape, folder_keys
from latentrt_export.checkpoint.ldm_families import AUTOENCODERS
from latentrt_export.checkpoint.ldm_layouts import first_stage_keys
from latentrt_export.checkpoint.match import ComponentSource
from latentrt_export.checkpoint.opened import OpenedCheckpoint
from latentrt_export.checkpoint.paths import check_configs, found_configs
from latentrt_export.checkpoint.recognition import config_differences
from latentrt_export.checkpoint.stored import header
from latentrt_export.checkpoint.weight_files import read_json

AUTOENCODER = Family(
    name="autoencoder",
    configs=Path(),
    pipelines=AUTOENCODERS,
    slots={"vae": Slot("", first_stage_keys)},
    mark="",
    encoders={},
    values={"vae": {"_class_name": AUTOENCODERS}},
    steps=1,
    guidance=1.0,
)
# Keys that both halves of an autoencoder have, in either layout.
ENDS = ("encoder.conv_in.weight", "decoder.conv_in.weight")
CODEBOOK = "quantize.embedding.weight"
BLOCK = re.compile(r"^encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight$")
# All of the paper's were trained on pictures of 256 pixels, with norms of 32 groups.
TRAINED_PX, GROUPS = 256, 32
# The factor of Stable Diffusion's latents, whose autoencoder is KL-f8; it is the default of diffusers' class. All
# others have latents of unit variance, or models that measured their own.
KL_F8, KL_F8_SCALING = ("AutoencoderKL", 4, 4), 0.18215


def is_first_stage(path: Path) -> bool:
    """Whether a folder or a file holds an autoencoder alone."""
    if not path.is_dir():
        return {*ENDS} <= header(path).keys()
    alone = (path / "config.json").is_file() and not (path / "model_index.json").exists()
    return alone and read_json(path / "config.json").get("_class_name") in AUTOENCODERS


def open_first_stage(path: Path, configs: Path | None, variant: str | None) -> OpenedCheckpoint:
    """Returns the source of an autoencoder alone: diffusers' folder, or a file in its layout or the original one.

    configs: a folder with vae.json, in place of what a file's shapes say. Raises CheckpointError.
    """
    if path.is_dir() and configs is not None:
        raise CheckpointError(f"got --configs {configs} (configs= in Python), but {path} has its own: leave it out")
    source = folder_source(path, "vae", variant) if path.is_dir() else file_source(path, configs)
    differences = config_differences(AUTOENCODER, {"vae": source.config})
    if differences:
        raise CheckpointError(f"{path} is no autoencoder that can be exported alone: {'; '.join(differences)}")
    return OpenedCheckpoint(AUTOENCODER, {"vae": source}, {}, {}, zero_negative=False)


def file_source(path: Path, configs: Path | None) -> ComponentSource:
    """The source of a file; in diffusers' layout it needs the config.json beside it, or configs."""
    tensors = header(path)
    shapes = {key: stored.shape for key, stored in tensors.items()}
    original = any(BLOCK.match(key) for key in shapes)
    if configs is not None:
        check_configs(configs)
        config = read_json(found_configs(configs) / "vae.json")
    elif original:
        config = config_of(shapes)
    elif (path.parent / "config.json").is_file():
        config = config_in(path.parent, "vae")
    else:
        raise CheckpointError(
            f"{path} is an autoencoder in diffusers' layout without its config.json: expected that beside it. Fetch "
            "it, or give a folder with vae.json by --configs DIR (configs= in Python)"
        )
    return ComponentSource(f"{path}", config, tensors, first_stage_keys if original else folder_keys)


def config_of(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the config of an original autoencoder (`autoencoder.py` of CompVis/latent-diffusion) with these shapes.

    Raises CheckpointError for a file that lacks one of them.
    """
    blocks = [match for match in map(BLOCK.match, shapes) if match]
    levels, layers = (1 + max(int(match[place]) for match in blocks) for place in (1, 2))
    try:
        widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
        embedded, latents = shapes["post_quant_conv.weight"][1], shapes["post_quant_conv.weight"][0]
        pixels, colours = shapes["encoder.conv_in.weight"][1], shapes["decoder.conv_out.weight"][0]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"the vae lacks {error}, or has it in another shape: fetch it again") from error
    attends = [f"encoder.down.{level}.attn.0.q.weight" in shapes for level in range(levels)]
    kind = "VQModel" if CODEBOOK in shapes else "AutoencoderKL"
    config: dict[str, Any] = {
        "_class_name": kind,
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": [f"{'Attn' * one}DownEncoderBlock2D" for one in attends],
        "up_block_types": [f"{'Attn' * one}UpDecoderBlock2D" for one in reversed(attends)],
        "in_channels": pixels,
        "out_channels": colours,
        "latent_channels": latents,
        "layers_per_block": layers,
        "mid_block_add_attention": any(key.startswith("encoder.mid.attn_1.") for key in shapes),
        "norm_num_groups": GROUPS,
        "sample_size": TRAINED_PX,
        "scaling_factor": KL_F8_SCALING if (kind, levels, latents) == KL_F8 else 1.0,
    }
    if kind == "VQModel":
        config |= {"num_vq_embeddings": shapes[CODEBOOK][0], "vq_embed_dim": embedded}
    return config
