"""Settings that LoRAs distilled for few steps were published with, by the names of their files.

Such a LoRA makes poor pictures at a model's usual settings. Sources: the model cards of LCM-LoRA (Luo et al. 2023), TCD
(Zheng et al. 2024), Hyper-SD (Ren et al. 2024) and SDXL-Lightning (Lin et al. 2024); the repositories of DMD2 (Yin et
al. 2024) and PCM (Wang et al. 2024). A published guidance scale of 0 is 1 here: no guidance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.rows import changed
from latentrt.sampling.schedule import Spacing


@dataclass(frozen=True)
class FewStep:
    """Fields of a request, as in `Request`. spacing: None for a sampler that has timesteps of its own."""

    sampler: str
    steps: int
    guidance: float = 1.0
    spacing: Spacing | None = None


FEW_STEP = {
    "lcm": FewStep("lcm", 4),
    "tcd": FewStep("tcd", 4),
    "dmd2": FewStep("lcm", 4),
    **{f"lightning-{steps}": FewStep("euler", steps, spacing="trailing") for steps in (2, 4, 8)},
    "hyper-sd-1": FewStep("tcd", 1),
    **{f"hyper-sd-{steps}": FewStep("ddim", steps, spacing="trailing") for steps in (2, 4, 8)},
    **{f"hyper-sd-cfg-{steps}": FewStep("ddim", steps, 5.0, "trailing") for steps in (8, 12)},
    **{f"pcm-{steps}": FewStep("tcd", steps) for steps in (2, 4, 8, 16)},
    **{f"pcm-cfg-{steps}": FewStep("tcd", steps, 7.5) for steps in (4, 8, 16)},
}
# The published files' names, in lower case, and what they are called above.
FILES = (
    (r"lcm[-_]lora[-_](sdv1-5|sd15|sdxl|ssd-1b)|sdxl[-_]lcm[-_]lora|pcm_(sd15|sdxl)_lcmlike_lora", "lcm"),
    (r"tcd[-_](sd15|sd21|sdxl)[-_]lora", "tcd"),
    (r"dmd2_sdxl_4step_lora", "dmd2"),
    (r"sdxl[-_]lightning[-_](?P<steps>\d+)steps?[-_]lora", "lightning-{steps}"),
    (r"hyper-(sd15|sdxl)-(?P<steps>\d+)steps?-cfg-lora", "hyper-sd-cfg-{steps}"),
    (r"hyper-(sd15|sdxl)-(?P<steps>\d+)steps?-lora", "hyper-sd-{steps}"),
    (r"pcm_(sd15|sdxl)_smallcfg_(?P<steps>\d+)step", "pcm-{steps}"),
    (r"pcm_(sd15|sdxl)_normalcfg_(?P<steps>\d+)step", "pcm-cfg-{steps}"),
)


def few_step_name(file: str) -> str | None:
    """The name in `FEW_STEP` for a LoRA's file; None if its name, and that of its folder, are not known.

    Some authors publish a file of a general name in a folder, or repository, that says what it is.

    >>> few_step_name("loras/Hyper-SDXL-8steps-CFG-lora.safetensors")
    'hyper-sd-cfg-8'
    """
    for part in PurePosixPath(file.replace("\\", "/").lower()).parts[:-3:-1]:
        for pattern, name in FILES:
            match = re.match(rf"({pattern})(?![a-z0-9])", part)
            known = match and name.format(**match.groupdict())
            if known in FEW_STEP:
                return known
    return None


def few_step_of(files: Iterable[str]) -> str | None:
    """The name for the one distilled LoRA among these files; None if there is none. Raises RequestError for several."""
    names = dict.fromkeys(name for name in map(few_step_name, files) if name)
    if len(names) > 1:
        raise RequestError(
            f"preset: got LoRAs made for different settings, {' and '.join(names)}; expected one of these names or "
            "none, for the settings of the request"
        )
    return next(iter(names), None)


def few_step_fields(request: Request, name: str) -> dict[str, Any]:
    """The fields that the request leaves open.

    Noise levels and spacing go with the sampler: a request that states one of the three has none of the LoRA's.
    """
    known = FEW_STEP[name]
    fields = {one: getattr(known, one) for one in ("steps", "guidance") if not changed(request, one)}
    if any(changed(request, one) for one in ("sampler", "sigmas", "spacing")):
        return fields
    return fields | {"sampler": known.sampler, "sigmas": "normal", "spacing": known.spacing}
