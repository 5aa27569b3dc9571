"""The latents of the pictures at both sizes, from the trained first stage.

    python -m emoji.ldm.latents

The denoisers train on these, so the first stage must not change after this. A latent covers 4x4 pixels, so a pixel of
the small picture lies beside every latent of the large one: a crop is the same rectangle of both.
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import VQModel
from numpy.typing import NDArray
from torch import Tensor

from emoji import training
from emoji.cutouts import PALETTE, WHITE, drawn_colour
from emoji.fetch import FOLDER
from emoji.ldm import first_stage
from emoji.ldm.pictures import all_cutouts, large, reduced

LARGE, SMALL = FOLDER / "latents256.npz", FOLDER / "latents64.npz"
STAGE, PER_PICTURE = 12, 4


@dataclass(frozen=True)
class LargeLatents:
    """Large pictures, four colours of each: latents (count, 3, 64, 64) of variance 1, and the pictures at 64x64.

    `low` is (count, 3, 64, 64) uint8. `scale` is what the latents were multiplied by, diffusers' `scaling_factor`.
    """

    latents: NDArray[np.float16]
    low: NDArray[np.uint8]
    scale: float


@dataclass(frozen=True)
class SmallLatents:
    """Every picture at 64x64 on every colour: latents (pictures, colours, 3, 16, 16) of variance 1."""

    latents: NDArray[np.float16]
    scale: float


def load_large() -> LargeLatents:
    """Return what super-resolution learns from."""
    with np.load(LARGE) as stored:
        return LargeLatents(stored["latents"], stored["low"], float(stored["scale"]))


def load_small() -> SmallLatents:
    """Return what the class-conditional model learns from."""
    with np.load(SMALL) as stored:
        return SmallLatents(stored["latents"], float(stored["scale"]))


@torch.no_grad()
def main() -> None:
    """Encode everything."""
    training.arguments(__doc__)
    model = first_stage.trained()
    save_small(model)
    save_large(model)


def save_small(model: VQModel) -> None:
    """Encode every picture on every colour at 64x64."""
    found = [first_stage.encoded(model, on_all_colours(number)) for number in range(len(all_cutouts()))]
    latents = torch.stack(found).numpy()
    scale = float(1 / latents.std())
    np.savez(SMALL, latents=(latents * scale).astype(np.float16), scale=scale)
    print(f"{len(latents)} pictures on {len(PALETTE)} colours at 64x64; scaling factor {scale:.4f}", flush=True)


def on_all_colours(number: int) -> Tensor:
    """Return a picture at 64x64 on every colour: (colours, 3, 64, 64)."""
    return torch.stack([reduced(large(number, colour)) for colour in range(len(PALETTE))])


def colours_of(count: int) -> list[list[int]]:
    """Return the colours that each of `count` large pictures is shown on: white and three others."""
    rng = np.random.default_rng((training.SEED, STAGE))
    return [[WHITE, *(drawn_colour(rng, plain=0) for _ in range(PER_PICTURE - 1))] for _ in range(count)]


def save_large(model: VQModel) -> None:
    """Encode every picture at 256x256 on white and on three other colours."""
    latents, low = [], []
    for number, colours in enumerate(colours_of(len(all_cutouts()))):
        pictures = torch.stack([large(number, colour) for colour in colours])
        latents.append(first_stage.encoded(model, pictures).half())
        low.append(((reduced(pictures) + 1) * 127.5).round().to(torch.uint8))
    stacked = torch.cat(latents).numpy()
    scale = float(1 / stacked.astype(np.float32).std())
    np.savez(LARGE, latents=(stacked * np.float16(scale)), low=torch.cat(low).numpy(), scale=scale)
    print(f"{len(stacked)} pictures at 256x256; scaling factor {scale:.4f}", flush=True)


if __name__ == "__main__":
    main()
