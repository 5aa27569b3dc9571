"""The transformers and the text encoders that are known, by what a config calls them."""

from __future__ import annotations

from collections.abc import Mapping

from latentrt_export.networks import flux2, pixart, qwen3, sd3, t5
from latentrt_export.networks.kinds import TextKind, TransformerKind

# By the class in a transformer's config.
TRANSFORMERS: Mapping[str, TransformerKind] = {
    # The first folders were written before diffusers had a class of its own for PixArt's.
    **dict.fromkeys(("PixArtTransformer2DModel", "Transformer2DModel"), pixart.KIND),
    "Flux2Transformer2DModel": flux2.KIND,
    "SD3Transformer2DModel": sd3.KIND,
}
# By the `model_type` in a text encoder's config; all others are CLIP's or LDM-BERT.
TEXTS: Mapping[str, TextKind] = {"t5": t5.KIND, "qwen3": qwen3.KIND}
USUAL_TRANSFORMER = "PixArtTransformer2DModel"


def may_hold_halves(component: str, config: Mapping[str, object]) -> bool:
    """Whether the weights of a component's linear layers may be held in half precision while it is exported."""
    if component == "transformer":
        return transformer_kind(config).halves
    return str(config.get("model_type")) in TEXTS


def transformer_kind(config: Mapping[str, object]) -> TransformerKind:
    """The kind of a transformer's config; PixArt's for one that names none, or none that is known."""
    return TRANSFORMERS.get(str(config.get("_class_name")), TRANSFORMERS[USUAL_TRANSFORMER])
