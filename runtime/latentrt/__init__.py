"""latentrt: latent diffusion, exported once, run lean. See `load`.

Names are imported when first used, so that the command line answers `--help` without NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentrt.errors import (
        BundleError,
        CheckpointError,
        EngineError,
        FidelityError,
        LatentError,
        NotFiniteError,
        OutOfMemoryError,
        OutputError,
        RequestError,
        ShapeError,
    )
    from latentrt.pipeline.codec import Codec
    from latentrt.pipeline.enlarger import Enlarged, Enlarger
    from latentrt.pipeline.inpaint import inpaint
    from latentrt.pipeline.load import load
    from latentrt.pipeline.pipeline import Pipeline
    from latentrt.pipeline.refine import handed_over
    from latentrt.pipeline.result import Result, Step
    from latentrt.pipeline.run import Run
    from latentrt.pipeline.upscale import Upscaled, upscale
    from latentrt.request.control import Control
    from latentrt.request.interpolation import between
    from latentrt.request.request import Request

__all__ = [
    "BundleError",
    "CheckpointError",
    "Codec",
    "Control",
    "EngineError",
    "Enlarged",
    "Enlarger",
    "FidelityError",
    "LatentError",
    "NotFiniteError",
    "OutOfMemoryError",
    "OutputError",
    "Pipeline",
    "Request",
    "RequestError",
    "Result",
    "Run",
    "ShapeError",
    "Step",
    "Upscaled",
    "between",
    "handed_over",
    "inpaint",
    "load",
    "upscale",
]

_HOMES = {
    "latentrt.request.control": ("Control",),
    "latentrt.pipeline.refine": ("handed_over",),
    "latentrt.request.interpolation": ("between",),
    "latentrt.pipeline.codec": ("Codec",),
    "latentrt.pipeline.load": ("load",),
    "latentrt.pipeline.enlarger": ("Enlarged", "Enlarger"),
    "latentrt.pipeline.inpaint": ("inpaint",),
    "latentrt.pipeline.upscale": ("Upscaled", "upscale"),
    "latentrt.pipeline.pipeline": ("Pipeline",),
    "latentrt.request.request": ("Request",),
    "latentrt.pipeline.result": ("Result", "Step"),
    "latentrt.pipeline.run": ("Run",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'latentrt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF.get(name, "latentrt.errors")), name)


def __dir__() -> list[str]:
    return __all__
