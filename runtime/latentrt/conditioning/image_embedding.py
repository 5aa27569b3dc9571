"""The image embedding that unCLIP models are conditioned on: CLIP's of an image, or a prior's of a prompt, with noise.

Ramesh et al. (2022); as diffusers 0.42.1's StableUnCLIPImg2ImgPipeline and StableUnCLIPPipeline, where a batch is that
of lists: of images, of prompts and of generators.
"""

from __future__ import annotations

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.conditioning.prior import PRIOR, PRIOR_ENCODER, TextRows, prior_embedding, prior_grid, text_rows
from latentrt.conditioning.text import Call
from latentrt.images.pillow import to_unit_range
from latentrt.prompt import Prompt
from latentrt.request.settings import Settings
from latentrt.sampling.noise.source import NoiseSource
from latentrt.tensors import Array

EMBEDDER, AUGMENTOR = "image_embedder", "noise_augmentor"


def embedding_components(manifest: Manifest) -> frozenset[str]:
    """The components that make the image embedding; none for a model that takes none."""
    if manifest.image_embedding is None:
        return frozenset()
    return frozenset({AUGMENTOR, *((PRIOR, PRIOR_ENCODER) if manifest.image_embedding.prior else (EMBEDDER,))})


def noise_shapes(manifest: Manifest, settings: Settings) -> list[tuple[int, ...]]:
    """The shape of every array of noise that an embedding takes of a picture's stream, before the latents' noise."""
    spec, embedding = settings.image_embedding, manifest.image_embedding
    if spec is None or embedding is None:
        return []
    draws = 1
    if embedding.prior is not None:  # the noise that it starts from, and that of all steps but a last one to no noise
        draws += 1 + int(np.count_nonzero(prior_grid(embedding.prior, spec.prior_steps).sigmas_next))
    return [(embedding_width(manifest),)] * draws


def embedding_width(manifest: Manifest) -> int:
    """The width of the embedding without the sinusoid of the noise level."""
    return int(manifest.components[AUGMENTOR].input("noise").shape[-1])


def image_embedding(call: Call, manifest: Manifest, settings: Settings, prompt: Prompt) -> Array | None:
    """Returns the noised embedding, (images, width), a row per picture of the batch.

    The second half of the width is a sinusoid of the noise level. None for a model that takes no embedding. call: runs
    a component by name. prompt: what a prior reads; of several texts the first.
    """
    spec, embedding = settings.image_embedding, manifest.image_embedding
    if spec is None or embedding is None:
        return None
    level, clean, texts = np.array([spec.noise_level]), np.zeros(0, np.float32), TextRows.none()
    if embedding.prior is None:
        side = manifest.components[EMBEDDER].input("image").shape[-1]
        clean = call(EMBEDDER, image=to_unit_range(spec.square(int(side))))["embedding"]
    else:
        texts = text_rows(call, manifest, prompt)
    rows = []
    for picture in range(len(settings.seeds)):  # one by one: plans of TensorRT have a limit of rows
        source = NoiseSource(settings.noise.of_image(picture), (embedding_width(manifest),))
        if embedding.prior is not None:
            clean = prior_embedding(call, embedding.prior, spec, texts, source)
        noise = source.normal(0.0, 0.0)
        rows.append(call(AUGMENTOR, embedding=clean, noise=noise, noise_level=level)["image_embedding"])
    return np.concatenate(rows)
