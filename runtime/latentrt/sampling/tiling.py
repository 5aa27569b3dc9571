"""Tiled denoising with overlap, for pictures larger than a model was trained for, and seamless pictures.

At every call of the model each tile is denoised by itself, guidance included, and overlapping tiles are averaged:
MultiDiffusion, Bar-Tal et al. (2023), eq. 5. There, and in diffusers 0.42.1's StableDiffusionPanoramaPipeline, the
results of steps are averaged. The result is the same, because every sampler's step is linear in the latents and in the
denoised latents; so samplers need no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from latentrt.sampling.step import Denoise
from latentrt.tensors import Array

# Latents per side that the decoder of a super-resolution model takes at once, as in the original, and the overlap of
# its tiles: a latent's pixels depend on about 16 of its neighbours, but for attention and norms.
DECODED, DECODER_OVERLAP = 128, 32
# The part of another tile that it shares with the next one: a quarter, too.
OVERLAP = 4
WRAPPED = 8  # latents of the opposite edge that are added beyond each edge for the decoder, as in diffusers

Tile = tuple[Array, Array]  # indices of its rows and of its columns


def tile_grid(rows: int, columns: int, window: int, stride: int, seamless: Seamless | None) -> list[Tile]:
    """Tiles that cover latents of `rows` x `columns`; all sizes are in latents."""
    axes = ((rows, "y"), (columns, "x"))
    down, across = (starts(length, window, stride, wraps=name in (seamless or "")) for length, name in axes)
    high, wide = min(window, rows), min(window, columns)
    return [
        ((np.arange(top, top + high) % rows)[:, np.newaxis], np.arange(left, left + wide) % columns)
        for top in down
        for left in across
    ]


def starts(length: int, window: int, stride: int, *, wraps: bool) -> list[int]:
    """Starts of tiles that cover an axis; the last tile ends at the axis's end, or wraps around."""
    if wraps:
        return list(range(0, length, stride))
    last = max(length - window, 0)
    return sorted({*range(0, last, stride), last})


def tiled(denoise: Callable[[Array, float, Tile], Array], windows: Sequence[Tile]) -> Denoise:
    """A model called on each tile in turn; where tiles overlap, the mean of their denoised latents."""

    def denoised(x: Array, sigma: float) -> Array:
        total, count = np.zeros_like(x), np.zeros(x.shape[-2:], x.dtype)
        for rows, columns in windows:
            total[..., rows, columns] += denoise(x[..., rows, columns], sigma, (rows, columns))
            count[rows, columns] += 1
        mean: Array = total / count
        return mean

    return denoised


def decoded(decode: Callable[[Array], Array], latents: Array, pixels: int, seamless: Seamless | None) -> Array:
    """Decoded pictures with matching edges: latents are padded by wrapping. pixels: width of one latent."""
    if seamless is None:
        return decode(latents)
    down, across = (WRAPPED if name in seamless else 0 for name in "yx")
    wrapped = np.pad(latents, ((0, 0), (0, 0), (down, down), (across, across)), mode="wrap")
    height, width = (side * pixels for side in latents.shape[-2:])
    top, left = down * pixels, across * pixels
    return decode(wrapped)[..., top : top + height, left : left + width]


def decoder_tiles(rows: int, columns: int, tile: int | None = None) -> list[Tile]:
    """Tiles of latents that an autoencoder takes one by one, a quarter of each shared with the next.

    tile: latents per side; default: those of a super-resolution model's decoder, DECODED.
    """
    side = tile or DECODED
    return tile_grid(rows, columns, side, side - shared_by(tile), None)


def shared_by(tile: int | None) -> int:
    """The latents that a tile shares with the next one. tile: as in `decoder_tiles`."""
    return tile // OVERLAP if tile else DECODER_OVERLAP


def decoded_in_tiles(decode: Callable[[Array], Array], latents: Array, pixels: int, tile: int | None = None) -> Array:
    """Pictures decoded tile by tile; a pixel of several is their mean, weighted by its distance from a tile's border.

    Close to the picture that is decoded at once, not equal: the decoder's attention and norms see one tile. As in
    `decode_first_stage` of CompVis/latent-diffusion, but the last tile ends at the picture's edge. pixels: width of one
    latent. tile: as in `decoder_tiles`.
    """
    rows, columns = latents.shape[-2:]
    tiles = decoder_tiles(rows, columns, tile)
    if len(tiles) == 1:
        return decode(latents)
    parts = ((one, decode(latents[..., one[0], one[1]])) for one in tiles)
    return joined(parts, (rows, columns), pixels, shared_by(tile))


def encoded_in_tiles(encode: Callable[[Array], Array], image: Array, pixels: int, tile: int) -> Array:
    """Latents encoded tile by tile, and joined as in `decoded_in_tiles`: the original's `encode_first_stage`.

    image: (batch, 3, height, width). pixels: width of one latent. tile: latents per side.
    """
    rows, columns = (side // pixels for side in image.shape[-2:])
    tiles = decoder_tiles(rows, columns, tile)
    if len(tiles) == 1:
        return encode(image)
    parts = ((one, encode(image[(..., *place_of(one, pixels))])) for one in tiles)
    return joined(parts, (rows, columns), 1, shared_by(tile))


def joined(parts: Iterable[tuple[Tile, Array]], size: Sequence[int], scale: int, shared: int) -> Array:
    """The outputs of tiles as one array; where tiles overlap, their weighted mean.

    size: of the whole in latents. scale: places of an output per latent and side. shared: latents of an overlap.
    """
    total: Array | None = None
    weights = np.zeros([side * scale for side in size], np.float32)
    for tile, part in parts:
        if total is None:
            total = np.zeros((*part.shape[:2], *weights.shape), np.float32)
        place = place_of(tile, scale)
        weight = np.outer(*(border_distance(side, shared * scale) for side in part.shape[-2:]))
        total[(..., *place)] += part * weight
        weights[place] += weight
    assert total is not None
    total /= weights
    return total


def place_of(tile: Tile, scale: int) -> tuple[slice, slice]:
    """The rows and columns of a tile that does not wrap around, `scale` per latent."""
    rows, columns = tile[0][:, 0], tile[1]
    return (
        slice(int(rows[0]) * scale, (int(rows[-1]) + 1) * scale),
        slice(int(columns[0]) * scale, (int(columns[-1]) + 1) * scale),
    )


def border_distance(side: int, most: int) -> Array:
    """The distance of each pixel from the nearer end of a side, 1 to `most`; (side,) float32."""
    places = np.arange(1, side + 1, dtype=np.float32)
    return np.minimum(np.minimum(places, places[::-1]), np.float32(most))


Seamless = Literal["x", "y", "xy"]
