"""The image embedding of unCLIP models as two graphs: CLIP's embedding of an image, and the noise that is added to it.

Ramesh et al. (2022), as diffusers 0.42.1's StableUnCLIPImg2ImgPipeline and its `noise_image_embeddings`. The first is
called once per run, the second once per picture, whose noise is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import Config, Part, generator, part
from latentrt_export.networks.image_encoder import of_unit_spread, patches_of
from latentrt_export.networks.text_encoder import layer_output

EMBEDDER, AUGMENTOR = "image_embedder", "noise_augmentor"
# Entry of the augmentor's config: the scheduler_config.json of its noise.
NOISE = "noise"
Spread: TypeAlias = tuple[Tensor, Tensor]


class ImageEmbedder(nn.Module):
    """CLIP's vision transformer: image (batch, 3, side, side) in [0, 1] -> embedding (batch, width).

    Takes over the modules of `model`.
    """

    def __init__(self, model: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        vision = model.vision_model
        self.embeddings, self.before, self.layers = vision.embeddings, vision.pre_layrnorm, vision.encoder.layers
        self.after, self.projection = vision.post_layernorm, model.visual_projection

    def forward(self, image: Tensor) -> Tensor:
        """The projected state of the class token."""
        hidden = self.before(patches_of(self.embeddings, of_unit_spread(image)))
        for layer in self.layers:
            hidden = layer_output(layer, hidden)
        embedding: Tensor = self.projection(self.after(hidden[:, 0]))
        return embedding


class NoiseAugmentor(nn.Module):
    """Embedding and noise (batch, width), level int64 (batch) -> noised embedding and sinusoid (batch, 2 * width).

    The noise is added at the level of a schedule to the embedding of unit variance. config: that of the normalizer,
    with that of the schedule as its entry "noise".
    """

    signal: Tensor
    noises: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = int(config["embedding_dim"])
        self.mean, self.std = nn.Parameter(torch.empty(1, width)), nn.Parameter(torch.empty(1, width))
        cumulative = noise_schedule(config).alphas_cumprod
        # Not among the weights of a checkpoint.
        self.register_buffer("signal", cumulative**0.5, persistent=False)
        self.register_buffer("noises", (1 - cumulative) ** 0.5, persistent=False)

    def forward(self, embedding: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """The embedding with noise of that level, and the level itself."""
        signal, noises = (one.index_select(0, noise_level)[:, None] for one in (self.signal, self.noises))
        noised = (signal * ((embedding - self.mean) / self.std) + noises * noise) * self.std + self.mean
        return torch.cat([noised, sinusoid(noise_level, int(self.mean.shape[-1]))], -1)


class PriorAugmentor(nn.Module):
    """A noise augmentor of embeddings that a prior makes, of unit variance. spread: their mean and deviation."""

    def __init__(self, augmentor: NoiseAugmentor, spread: Spread) -> None:
        super().__init__()
        self.augmentor = augmentor
        self.mean, self.std = (nn.Parameter(one, requires_grad=False) for one in spread)

    def forward(self, embedding: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """The embedding with noise of that level, and the level itself."""
        noised: Tensor = self.augmentor(embedding * self.std + self.mean, noise, noise_level)
        return noised


def sinusoid(noise_level: Tensor, width: int) -> Tensor:
    """The sinusoid of noise levels (batch,), as the original appends it: (batch, width) float32."""
    found: Tensor = get_timestep_embedding(noise_level, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    return found


def noise_schedule(config: Config) -> DDPMScheduler:
    """The schedule of an augmentor's noise, on the CPU even where modules are built without memory."""
    with torch.device("cpu"):
        schedule: DDPMScheduler = DDPMScheduler.from_config(dict(config[NOISE]))
    return schedule


def noise_levels(config: Config) -> int:
    """The number of noise levels of an augmentor."""
    return len(noise_schedule(config).alphas_cumprod)


def embedder_part(model: CLIPVisionModelWithProjection) -> Part:
    """The embedder's component, compared with the original."""
    side = model.config.image_size
    image = TensorSpec("image", "float32", ("batch", 3, side, side))
    embedding = TensorSpec("embedding", "float32", ("batch", model.config.projection_dim))
    images = [torch.rand(rows, 3, side, side, generator=generator()) for rows in (2, 1)]
    with torch.no_grad():
        runs = [{"image": one, "embedding": model(of_unit_spread(one)).image_embeds} for one in images]
    return part(EMBEDDER, lambda: ImageEmbedder(model), (image,), (embedding,), runs, role="image_embedder")


def augmentor_part(augmentor: NoiseAugmentor, spread: Spread | None = None) -> Part:
    """The noise augmentor's component, compared with the module and the scheduler of the original.

    spread: the mean and the deviation of a prior's embeddings, which are of unit variance before; None without a prior.
    """
    row = ("batch", width := int(augmentor.mean.shape[-1]))
    inputs = (
        TensorSpec("embedding", "float32", row),
        TensorSpec("noise", "float32", row),
        TensorSpec("noise_level", "int64", ("batch",)),
    )
    noised = TensorSpec("image_embedding", "float32", ("batch", 2 * width))
    runs = [noised_run(augmentor, spread, levels) for levels in ((0, 500), (len(augmentor.signal) - 1,))]
    module = augmentor if spread is None else PriorAugmentor(augmentor, spread)
    whole = part(AUGMENTOR, lambda: module, inputs, (noised,), runs, role="noise_augmentor")
    return replace(whole, float32=True)  # it is small, and sinusoids of levels near 1000 need more than fp16's 11 bits


def noised_run(augmentor: NoiseAugmentor, spread: Spread | None, levels: Sequence[int]) -> dict[str, Tensor]:
    """Random embeddings and noise at these levels, and what the original makes of them."""
    random, level, width = generator(), torch.tensor(levels), int(augmentor.mean.shape[-1])
    embedding, noise = (torch.randn(len(levels), width, generator=random) for _ in range(2))
    normalizer = StableUnCLIPImageNormalizer(width)
    normalizer.load_state_dict(augmentor.state_dict())
    mean, deviation = spread or (0.0, 1.0)
    with torch.no_grad():
        scaled = normalizer.scale(embedding * deviation + mean)
        noised = noise_schedule(augmentor.config).add_noise(scaled, noise, level)
        found = torch.cat([normalizer.unscale(noised), sinusoid(level, width)], -1)
    return {"embedding": embedding, "noise": noise, "noise_level": level, "image_embedding": found}
