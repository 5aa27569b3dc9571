"""What the autoencoder of a bundle loses: pictures through its encoder and decoder, as the runtime calls them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emoji import compose
from emoji.captions import COLOURED
from emoji.compose import Array
from emoji.neighbours import Set
from emoji.words import COLOURS

SEED, BATCH = 0, 4

Call = Callable[..., Mapping[str, Array]]


@dataclass(frozen=True)
class Decoded:
    """What is left of one picture: its label, its background, and the peak signal-to-noise ratio in dB."""

    label: str
    background: str
    psnr_db: float


def reconstruct(call: Call, pictures: Array) -> Array:
    """Return pictures after encoder and decoder, from the mean of the latents: nothing is drawn.

    `pictures` and what comes back are (batch, side, side, 3) float32 in [0, 1], `call` is `latentrt.Pipeline.call`.
    """
    mean = call("vae_encoder", image=pictures.transpose(0, 3, 1, 2) * 2 - 1)["mean"]
    decoded = call("vae_decoder", latents=mean)["image"].astype(np.float32)
    return np.clip(decoded.transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)


def psnr(pictures: Array, others: Array) -> Array:
    """Return the peak signal-to-noise ratio of each pair in dB; both are (batch, side, side, 3) in [0, 1]."""
    with np.errstate(divide="ignore"):  # equal pictures have infinity
        figures: Array = -10 * np.log10(((pictures - others) ** 2).mean(axis=(1, 2, 3)))
    return figures


def measure(call: Call, pictures: Set) -> Iterator[Decoded]:
    """Yield every picture of the set, on white and on a colour that its place in the set decides."""
    colours = np.random.default_rng(SEED).choice(COLOURED, size=len(pictures.labels))
    yield from on_colours(call, pictures, ["white"] * len(pictures.labels))
    yield from on_colours(call, pictures, [str(colour) for colour in colours])


def on_colours(call: Call, pictures: Set, colours: Sequence[str]) -> Iterator[Decoded]:
    """Yield every picture of the set on its own of the colours, a few in a call."""
    for start in range(0, len(colours), BATCH):
        some = range(start, min(start + BATCH, len(colours)))
        batch = np.stack([compose.on_background(pictures.cutouts[one], COLOURS[colours[one]]) for one in some])
        for one, figure in zip(some, psnr(batch, reconstruct(call, batch)), strict=True):
            yield Decoded(pictures.labels[one], colours[one], float(figure))
