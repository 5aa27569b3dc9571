"""The damage that quantizing one group of layers does to pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """What the final pictures keep, PSNR in dB, when only these layers are quantized; None when nothing differed."""

    layers: tuple[str, ...]
    psnr_db: float | None
