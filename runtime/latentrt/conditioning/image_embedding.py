"""The embedding of an image that unCLIP models are conditioned on: CLIP's, with noise.

Ramesh et al. (2022); as diffusers 0.42.1's StableUnCLIPImg2ImgPipeline, where a batch is that of a list of images.
"""

from __future__ import annotations

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.conditioning.text import Call
from latentrt.images.pillow import to_unit_range
from latentrt.request.settings import Settings
from latentrt.sampling.noise.source import NoiseSource
from latentrt.tensors import Array

EMBEDDER, AUGMENTOR = "image_embedder", "noise_augmentor"


def noise_shape(manifest: Manifest) -> tuple[int, ...]:
    """The shape of the noise in one picture's embedding; () for a model that takes none.

    It is drawn before the noise of the latents, from the same stream.
    """
    augmentor = manifest.components.get(AUGMENTOR)
    return (int(augmentor.input("noise").shape[-1]),) if augmentor else ()


def image_embedding(call: Call, manifest: Manifest, settings: Settings) -> Array | None:
    """Returns the noised embedding of the settings' image, (images, width), a row per picture of the batch.

    The second half of the width is a sinusoid of the noise level. None for a model that takes no image. call: runs a
    component by name.
    """
    varied = settings.varied_image
    if varied is None:
        return None
    side = manifest.components[EMBEDDER].input("image").shape[-1]
    clean = call(EMBEDDER, image=to_unit_range(varied.square(int(side))))["embedding"]
    level = np.array([varied.noise_level])
    noise = NoiseSource(settings.noise, noise_shape(manifest)).normal(0.0, 0.0)
    # One picture by one: plans of TensorRT have a limit of rows.
    rows = [
        call(AUGMENTOR, embedding=clean, noise=one[np.newaxis], noise_level=level)["image_embedding"] for one in noise
    ]
    return np.concatenate(rows)
