"""LoRA files fused into a checkpoint.

A component adds the changes to its weights as it loads, before modules are divided, so that the projections that are
hoisted out of the UNet carry their changes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from latentrt.bundle.folder import sha256_of
from latentrt.lora.files import Lora, changes_of
from latentrt.lora.layers import found_file
from latentrt_export.checkpoint.load import Checkpoint


def with_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> Checkpoint:
    """Returns the checkpoint with `loras`, which are added to its weights in that order when it loads.

    Bundled words of a file are added by `latentrt_export.checkpoint.embeddings`. Raises CheckpointError as `changes_of`
    does.
    """
    shapes = {
        name: {key: stored.shape for key, stored in component.weights.items()}
        for name, component in checkpoint.components.items()
    }
    changes = [one for lora in loras for one in changes_of(lora, shapes, checkpoint.source, checkpoint.family.name)]
    components = {
        name: replace(component, changes=tuple(one for one in changes if one.component == name))
        for name, component in checkpoint.components.items()
    }
    return replace(checkpoint, components=components)


def loras_provenance(loras: Sequence[Lora]) -> dict[str, str]:
    """The provenance of fused files, by their number."""
    return {
        f"lora {place}": f"{lora.file.name}, {scales_text(lora)}, sha256 {sha256_of(found_file(lora.file))}"
        for place, lora in enumerate(loras, 1)
    }


def scales_text(lora: Lora) -> str:
    """The scale of a file, and the text encoders' scale if it differs."""
    text = lora.scale_of("text_encoder")
    return f"scale {lora.scale:g}" + (f", text scale {text:g}" if text != lora.scale else "")
