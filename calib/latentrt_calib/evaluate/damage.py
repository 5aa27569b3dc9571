"""The damage that quantizing one group of layers does to pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """PSNR in dB of the final pictures when only these layers are quantized; None if no picture differs."""

    layers: tuple[str, ...]
    psnr_db: float | None
