"""The tasks of a bundle, from its components."""

from __future__ import annotations

from collections.abc import Collection

# Needed components beside the denoiser, the hoisted graphs and the text encoders, which every task needs.
TEXT_TO_IMAGE = frozenset({"vae_decoder"})
FROM_AN_IMAGE = TEXT_TO_IMAGE | {"vae_encoder"}
TASKS = {"text-to-image": TEXT_TO_IMAGE, "image-to-image": FROM_AN_IMAGE, "inpainting": FROM_AN_IMAGE}
# An optional component for previews and `fast_decode`.
TINY_DECODER = "tiny_decoder"


def tasks_of(components: Collection[str]) -> tuple[str, ...]:
    """The names of the tasks that these components are enough for."""
    return tuple(task for task, needed in TASKS.items() if needed.issubset(components))
