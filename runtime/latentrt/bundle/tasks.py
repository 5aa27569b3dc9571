"""The tasks that a bundle can do, by the components that it has."""

from __future__ import annotations

from collections.abc import Collection

# And the text encoders that the bundle names.
TEXT_TO_IMAGE = frozenset({"cross_kv", "time_bias", "unet", "vae_decoder"})
FROM_AN_IMAGE = TEXT_TO_IMAGE | {"vae_encoder"}
TASKS = {"text-to-image": TEXT_TO_IMAGE, "image-to-image": FROM_AN_IMAGE, "inpainting": FROM_AN_IMAGE}
# Which a bundle may have besides, for previews and `fast_decode`.
TINY_DECODER = "tiny_decoder"


def tasks_of(components: Collection[str]) -> tuple[str, ...]:
    """The names of the tasks whose components are all there."""
    return tuple(task for task, needed in TASKS.items() if needed.issubset(components))
