"""T2I-Adapters of a checkpoint: folders of diffusers, checked against the config of its UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.folder import folder_source
from latentrt_export.checkpoint.load import Checkpoint, Component, matched
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.networks.adapter_network import features_of, places_of
from latentrt_export.networks.component import pixels_of

KIND = "t2i_adapter"


def with_adapters(checkpoint: Checkpoint, adapters: Sequence[NamedNetwork]) -> Checkpoint:
    """Returns the checkpoint with `adapters`, each a folder of diffusers' T2IAdapter.

    Raises CheckpointError for missing or damaged files, and for an adapter of another family or width.
    """
    return replace(checkpoint, adapters={one.name: opened_adapter(one.path, checkpoint) for one in adapters})


def opened_adapter(path: Path, checkpoint: Checkpoint) -> Component:
    """A T2I-Adapter that fits the checkpoint's UNet, not read yet."""
    check_there("T2I-Adapter", path)
    component = matched(KIND, folder_source(path, KIND))
    unet, vae = (checkpoint.components[name].config for name in ("unet", "vae"))
    got, expected = features_of(BUILDERS[KIND](component.config), pixels_of(vae)), places_of(BUILDERS["unet"](unet))
    if got not in (expected, expected[:-1]):
        raise CheckpointError(
            f"the T2I-Adapter {path} does not fit {checkpoint.source} ({checkpoint.family.name}): its features have "
            f"the levels and channels {got}, expected {expected[:-1]}. It was made for another family or width; give "
            "one for this checkpoint"
        )
    return component
