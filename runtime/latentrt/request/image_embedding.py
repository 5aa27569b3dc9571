"""What the image embedding of an unCLIP model is made of: an image, or a prior's steps; and the noise added to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import ImageEmbedding, Manifest
from latentrt.errors import RequestError
from latentrt.images.load import open_image
from latentrt.images.pillow import digest, square_crop
from latentrt.request.request import Request
from latentrt.request.rows import changed, checked
from latentrt.validate import shown

if TYPE_CHECKING:
    from PIL.Image import Image

# As in diffusers 0.42.1's StableUnCLIPPipeline.
PRIOR = {"prior_steps": 25, "prior_guidance": 4.0}


@dataclass(frozen=True)
class EmbeddingSpec:
    """The level of the noise in the embedding, from 0, and what is embedded.

    image: RGB, of any size; None for a model whose prior makes the embedding of the prompt, in prior_steps steps with
    prior_guidance.
    """

    noise_level: int = 0
    image: Image | None = field(default=None, repr=False)
    prior_steps: int = 0
    prior_guidance: float = 0.0

    def square(self, side: int) -> Image:
        """The image as CLIP sees it: a square of `side` pixels around the centre."""
        assert self.image is not None  # `resolve_image_embedding` asks for one
        return square_crop(self.image, side)

    def record(self) -> dict[str, Any]:
        """The fields of the request that make this again; the image by its hash."""
        known: dict[str, Any] = {"noise_level": self.noise_level}
        if self.image is not None:
            return known | {"image": digest(self.image)}
        return known | {name: getattr(self, name) for name in PRIOR}


def resolve_image_embedding(request: Request, manifest: Manifest) -> EmbeddingSpec | None:
    """The request's image, opened, or the prior's steps; None for a model that takes none. Raises RequestError."""
    embedding = manifest.image_embedding
    if request.image is not None and not manifest.varies_images:
        raise RequestError(
            f"image: got {shown(request.image)}, but {manifest.name} makes no variations of images; give init to start "
            "from an image, or load a model of image variations"
        )
    refuse_others(request, manifest)
    if embedding is None:
        return None
    level = checked(request, "noise_level", highest=embedding.noise_levels - 1)
    if embedding.prior is not None:
        return EmbeddingSpec(level, None, *prior_numbers(request, embedding))
    if request.image is None:
        raise RequestError(f"image: got none, but {manifest.name} draws variations of an image; give one")
    return EmbeddingSpec(level, open_image("image", request.image))


def refuse_others(request: Request, manifest: Manifest) -> None:
    """Raises RequestError for the first field of an embedding that the model has no use for."""
    embedding = manifest.image_embedding
    unused = [*([] if embedding else ["noise_level"]), *([] if embedding and embedding.prior else PRIOR)]
    for name in unused:
        if changed(request, name):
            needed = "prior" if name in PRIOR else "image embedding"
            got = shown(getattr(request, name))
            raise RequestError(f"{name}: got {got}, but {manifest.name} has no {needed}; leave it out")


def prior_numbers(request: Request, embedding: ImageEmbedding) -> tuple[int, float]:
    """The steps and the guidance of the prior."""
    assert embedding.prior is not None
    highest = {"prior_steps": embedding.prior.schedule.train_steps, "prior_guidance": None}
    steps, guidance = (checked(request, name, usual, highest[name]) for name, usual in PRIOR.items())
    return steps, guidance
