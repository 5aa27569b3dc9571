"""The latents of every picture on every colour, and of pairs side by side, from the trained autoencoder.

    python -m emoji.latents

The UNet trains on these and never sees a pixel, so the autoencoder must not change after this.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from emoji import autoencoder, compose, index, training
from emoji.captions import pair_caption
from emoji.cutouts import cutout, on_colour
from emoji.fetch import FOLDER
from emoji.index import Row
from emoji.words import COLOURS

PATH = FOLDER / "latents.npz"
STAGE, PAIRS, BATCH = 2, 16000, 64
NAMES = list(COLOURS)


@dataclass(frozen=True)
class Latents:
    """Scaled latents: `single` is (pictures, colours, 4, 16, 16), `pairs` (pairs, 4, 16, 16), float16, of variance 1.

    `texts` has a caption for each pair; a single picture's is drawn anew whenever it is shown. `scale` is what the
    encoder's means were multiplied by, diffusers' `scaling_factor`.
    """

    single: NDArray[np.float16]
    pairs: NDArray[np.float16]
    texts: NDArray[np.str_]
    scale: float


def load() -> Latents:
    """Return the stored latents."""
    if not PATH.is_file():
        raise FileNotFoundError(f"{PATH}: no such file; run python -m emoji.latents")
    with np.load(PATH) as stored:
        return Latents(stored["single"], stored["pairs"], stored["texts"], float(stored["scale"]))


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Iterable[Tensor]) -> NDArray[np.float32]:
    """Return the means of the posterior: (pictures, 4, 16, 16)."""
    batches = (torch.stack(some).to(training.device()) for some in batched(pictures, BATCH))
    return torch.cat([vae.encode(some).latent_dist.mean.cpu() for some in batches]).numpy()


def batched(pictures: Iterable[Tensor], count: int) -> Iterator[list[Tensor]]:
    """Yield the pictures, `count` at a time."""
    pictures = iter(pictures)
    while some := list(islice(pictures, count)):
        yield some


def pair(rows: list[Row], rng: Generator) -> tuple[str, Tensor]:
    """Return a caption and the two pictures side by side that it names."""
    left, right = rng.integers(len(rows), size=2)
    text, colour = pair_caption(rows[left], rows[right], rng)
    return text, on_colour(compose.beside(cutout(left), cutout(right)), NAMES.index(colour))


def main() -> None:
    """Encode everything."""
    training.arguments(__doc__)
    vae = autoencoder.build().to(training.device()).eval()
    training.load_parts("autoencoder", {"vae": vae})
    rows = index.load()
    singles = (on_colour(cutout(number), colour) for number in range(len(rows)) for colour in range(len(NAMES)))
    single = encode(vae, singles).reshape(len(rows), len(NAMES), 4, 16, 16)
    rng = np.random.default_rng((training.SEED, STAGE))
    texts, pictures = zip(*(pair(rows, rng) for _ in range(PAIRS)), strict=True)
    scale = float(1 / single.std())
    paired = encode(vae, pictures) * scale
    np.savez(
        PATH, single=(single * scale).astype(np.float16), pairs=paired.astype(np.float16), texts=texts, scale=scale
    )
    print(f"{len(rows)} pictures on {len(NAMES)} colours and {PAIRS} pairs; scaling factor {scale:.4f}")


if __name__ == "__main__":
    main()
