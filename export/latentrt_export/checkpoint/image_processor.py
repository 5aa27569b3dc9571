"""The config of a folder's CLIPImageProcessor, checked: the runtime prepares images as the published ones do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.weight_files import read_json
from latentrt_export.networks.component import Config

FILE = "preprocessor_config.json"
BICUBIC = 3
# Entries of transformers 5.23's CLIPImageProcessor, which the runtime follows; those of the size are checked apart.
EXPECTED: Mapping[str, Any] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True),
    "resample": BICUBIC,
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}


def check_image_processor(folder: Path, encoder: Config) -> None:
    """Raises CheckpointError for a processor that prepares images otherwise. encoder: config of the image encoder."""
    config, side = read_json(folder / FILE), encoder.get("image_size", 224)
    found = {name: config.get(name, value) for name, value in EXPECTED.items()}
    found |= {name: side_of(config.get(name, side)) for name in ("size", "crop_size")}
    expected = {**EXPECTED, "size": side, "crop_size": side}
    wrong = [f"{name} {found[name]!r}, expected {value!r}" for name, value in expected.items() if found[name] != value]
    if wrong:
        raise CheckpointError(
            f"{folder / FILE}: got {'; '.join(wrong)}: images are prepared here as CLIP's encoders take them. Fetch "
            "the checkpoint again"
        )


def side_of(size: Any) -> Any:
    """The side that an entry of the size means: of the shorter edge, or of a square; anything else as it is."""
    if isinstance(size, Mapping):
        sides = {*size.values()}
        return sides.pop() if len(sides) == 1 else size
    return size
