"""The components of a checkpoint, one after another: module, specs, and the original's outputs for fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diffusers import Flux2Transformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel

from latentrt.bundle.sources import ExtraChannels
from latentrt_export.checkpoint.family import PRIOR_ENCODER
from latentrt_export.checkpoint.load import Checkpoint
from latentrt_export.checkpoint.recognition import extra_channels_by_count
from latentrt_export.components import flux2, pixart, sd3
from latentrt_export.components.conditions import TEXT, VECTORS, ClassLabel, Condition, LayoutBoxes
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.components.segmentation import segmentation_part
from latentrt_export.components.steering import Steering
from latentrt_export.components.text import text_parts
from latentrt_export.components.vae import vae_parts
from latentrt_export.networks.component import Part, pixels_of
from latentrt_export.networks.image_embedding import AUGMENTOR, EMBEDDER, augmentor_part, embedder_part
from latentrt_export.networks.image_encoder import IMAGE_ENCODER, encoder_part
from latentrt_export.networks.prior import PRIOR, prior_part

# What makes the components of a transformer, by its class.
TRANSFORMERS: Mapping[type, Callable[[Any], Iterator[Part]]] = {
    PixArtTransformer2DModel: pixart.transformer_parts,
    Flux2Transformer2DModel: flux2.transformer_parts,
    SD3Transformer2DModel: sd3.transformer_parts,
}
# Conditions by the component that makes them.
CONDITIONS: Mapping[str, Callable[[Any], Condition]] = {"class_embedding": ClassLabel, "layout_encoder": LayoutBoxes}


def parts_of(checkpoint: Checkpoint) -> Iterator[Part]:
    """Yields every component in the order in which the runtime calls them; a module is loaded when its turn comes.

    The image encoder alone follows what it is called before, the UNet: both are large, and so one is in memory.
    """
    if checkpoint.draws:
        yield from denoising_parts(checkpoint)
    yield from vae_parts(checkpoint.load_vae(), float32=checkpoint.family.float32_vae)


def denoising_parts(checkpoint: Checkpoint) -> Iterator[Part]:
    """Yields all components but those of the autoencoder."""
    family = checkpoint.family
    for name, encoder in family.encoders.items():
        yield from text_parts(checkpoint.load_text_encoder(name), encoder, name)
    if AUGMENTOR in checkpoint.components:
        yield from embedding_parts(checkpoint)
    if family.denoiser == "transformer":
        transformer = checkpoint.denoiser.load()
        yield from TRANSFORMERS[type(transformer)](transformer)
        return
    unet = checkpoint.load_unet()
    steering = Steering.of(checkpoint, unet)
    yield from unet_parts(unet, family.size_ids, steering, extra_channels(checkpoint), condition_of(checkpoint))
    if steering.prompts:
        yield encoder_part(checkpoint.components[IMAGE_ENCODER].load(), steering.prompts)
    if "segmentation" in checkpoint.components:
        factor = pixels_of(checkpoint.components["vae"].config)
        yield segmentation_part(checkpoint.components["segmentation"].load(), factor)


def embedding_parts(checkpoint: Checkpoint) -> Iterator[Part]:
    """Yields what makes the image embedding of unCLIP models: of an image, or of a prompt by a prior."""
    augmentor, prior, spread = checkpoint.components[AUGMENTOR].load(), checkpoint.family.prior, None
    if prior is None:
        yield embedder_part(checkpoint.components[EMBEDDER].load())
    else:
        yield from text_parts(checkpoint.load_text_encoder(PRIOR_ENCODER), prior, PRIOR_ENCODER)
        model = checkpoint.components[PRIOR].load()
        spread = model.clip_mean.clone(), model.clip_std.clone()  # the export frees the model's own
        yield prior_part(model)
    yield augmentor_part(augmentor, spread)


def extra_channels(checkpoint: Checkpoint) -> tuple[ExtraChannels, ...]:
    """The channels after the noisy latents in the UNet's sample, by their number."""
    configs = {name: component.config for name, component in checkpoint.components.items()}
    return extra_channels_by_count(checkpoint.family, configs)[configs["unet"].get("in_channels", 4)]


def condition_of(checkpoint: Checkpoint) -> Condition:
    """The condition that the UNet's cross-attention attends to."""
    for name, kind in CONDITIONS.items():
        if name in checkpoint.components:
            return kind(checkpoint.components[name].load())
    return VECTORS if checkpoint.family.context_vectors else TEXT
