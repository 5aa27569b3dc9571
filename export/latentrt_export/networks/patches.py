"""Patches of latents: the last layer of a transformer that takes them, ordered for one operator that joins them."""

from __future__ import annotations

from typing import Any

from torch import nn


def kept_rows(transformer: Any) -> nn.Linear:
    """The last layer without the rows of the variance, ordered as `pixel_shuffle` reads them: channel, row, column."""
    full, patch, channels = transformer.proj_out, transformer.config.patch_size, transformer.config.in_channels
    kept = nn.Linear(full.in_features, channels * patch**2, device="meta")
    for name in ("weight", "bias"):
        rows = getattr(full, name).detach().unflatten(0, (patch, patch, -1))[:, :, :channels]
        setattr(kept, name, nn.Parameter(rows.movedim(2, 0).flatten(0, 2), requires_grad=False))
    return kept
