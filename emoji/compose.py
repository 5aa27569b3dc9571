"""A picture on a background: cut-outs with premultiplied alpha, which neither halo nor fringe when they are resized.

Everything happens on sRGB values as they are, the way browsers and image viewers blend. A cut-out is (128, 128, 4)
float32: red, green and blue already multiplied by alpha, then alpha, all in [0, 1].
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

SIDE = 128
WHITE = (255, 255, 255)

# A picture may be mirrored unless that makes it wrong: writing, digits, maps, hands of a clock and sides that the label
# names. A label with one of these words, or parts of words, stays as it is.
_MIRROR_CHANGES = (
    *("left", "right", "oncoming", "increasing", "decreasing", "clock", "watch", "chart"),
    *("globe", "map", "statue", "dollar", "money", "bank", "coin", "credit", "cash", "price"),
    *("8 ball", "medal", "dice", "die", "joker", "mahjong", "slot", "abacus", "calendar", "calculator"),
    *("musical", "score", "keyboard", "piano", "24", "hotel", "post", "store", "school", "hospital", "bus stop"),
    *("symbols on mouth", "sleeping", "zzz", "100", "hundred", "e-mail", "newspaper", "page", "memo", "scroll"),
    *("identification", "envelope", "fire engine", "ambulance", "police", "taxi", "phone", "pager", "elevator"),
)


def cutout(image: Image.Image, side: int = SIDE) -> Array:
    """Return a picture with transparency as a cut-out of `side` pixels: (side, side, 4) float32, premultiplied.

    Colour is multiplied by alpha *before* the LANCZOS filter mixes pixels, so that colour which nobody sees in fully
    transparent pixels does not bleed into the outline. Where the filter overshoots, alpha is clipped to [0, 1] and the
    colour scaled with it, else it would draw a bright rim; then colour is clipped to [0, alpha].
    """
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    planes = [Image.fromarray(np.ascontiguousarray(pixels[..., plane])) for plane in range(4)]
    small = [np.asarray(plane.resize((side, side), Image.Resampling.LANCZOS)) for plane in planes]
    alpha = np.clip(small[3], 0, 1)
    scale = np.divide(alpha, small[3], out=np.zeros_like(alpha), where=small[3] > 1e-6)
    return np.stack([*(np.clip(colour * scale, 0, alpha) for colour in small[:3]), alpha], axis=-1)


def load(path: Path) -> Array:
    """Return the picture in a file as a cut-out."""
    with Image.open(path) as image:
        return cutout(image)


def on_background(picture: Array, colour: tuple[int, int, int] = WHITE) -> Array:
    """Return a cut-out on an even background: (side, side, 3) float32 in [0, 1].

    `colour` is red, green and blue in 0..255; pixels that the picture leaves free are exactly `colour / 255`.
    """
    ground = np.asarray(colour, dtype=np.float32) / 255
    return picture[..., :3] + (1 - picture[..., 3:]) * ground


def beside(left: Array, right: Array) -> Array:
    """Return two cut-outs next to each other in one of the same size, each at half its width and in the middle."""
    side = left.shape[0]
    both = np.zeros_like(left)
    for place, picture in enumerate((left, right)):
        half = picture.reshape(side // 2, 2, side // 2, 2, 4).mean(axis=(1, 3))
        both[side // 4 : side // 4 + side // 2, place * side // 2 : (place + 1) * side // 2] = half
    return both


def mirror(picture: Array) -> Array:
    """Return the picture with left and right changed."""
    return np.ascontiguousarray(picture[:, ::-1])


def may_mirror(label: str) -> bool:
    """Return whether a picture of this label is still right when left and right are changed."""
    return not any(word in label.lower() for word in _MIRROR_CHANGES)
