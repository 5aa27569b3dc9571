"""A VAE in place of a checkpoint's: a diffusers folder, or a file in the original layout or in diffusers'."""

from __future__ import annotations

from pathlib import Path

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.folder import config_in, folder_source
from latentrt_export.checkpoint.layouts import vae_keys
from latentrt_export.checkpoint.match import ComponentSource
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.stored import header, under
from latentrt_export.networks.component import Config

# Prefixes of a VAE's keys in files of whole models.
PREFIXES = ("first_stage_model.", "vae.", "model.first_stage_model.")


def vae_source(path: Path, config: Config, variant: str | None) -> ComponentSource:
    """Returns the source of a VAE at `path`. config: config of the VAE that it replaces.

    A file in diffusers' layout is read with the config.json beside it, if there is one. Raises CheckpointError.
    """
    check_there("VAE", path)
    if path.is_dir():
        return folder_source(path, "vae", variant)
    tensors = header(path)
    held = next((found for prefix in PREFIXES if (found := under(prefix, tensors))), tensors)
    if not any(key.endswith(f"{part}.conv_in.weight") for key in held for part in ("encoder", "decoder")):
        raise CheckpointError(f"{path} holds no VAE: expected encoder.conv_in.weight and the others of one")
    if any(".mid_block." in key for key in held) and (path.parent / "config.json").is_file():
        config = config_in(path.parent, "vae")
    return ComponentSource(f"{path}", config, held, vae_keys)
