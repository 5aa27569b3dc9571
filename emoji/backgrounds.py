"""Which of the named colours a drawn background is: the corners of the picture vote, each by its nearest colour in Lab.

No picture of the set reaches into a corner by half of these patches, so with a true picture all four agree; a drawn one
may be too large or smeared, and then the other corners outvote the one that it covers.
"""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from emoji.compose import Array
from emoji.words import COLOURS

PATCH = 8  # pixels, the side of what is looked at in each corner

NAMES = tuple(COLOURS)
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # IEC 61966-2-1
D65 = XYZ.sum(axis=1)


def background(picture: Array) -> str:
    """Return the name of a picture's background, a key of `COLOURS`.

    `picture` is (side, side, 3) float32 in [0, 1]. The median colour of each corner's 8x8 pixels votes for the named
    colour that is nearest in CIE Lab; of names with as many votes the one with the nearest corner wins.
    """
    votes = defaultdict(list)
    for corner in corners(picture):
        apart = np.linalg.norm(lab(corner) - PALETTE, axis=1)
        votes[NAMES[int(apart.argmin())]].append(float(apart.min()))
    return max(votes, key=lambda name: (len(votes[name]), -min(votes[name])))


def corners(picture: Array) -> Array:
    """Return the median colour of each corner: (4, 3)."""
    ends = slice(None, PATCH), slice(-PATCH, None)
    return np.stack([np.median(picture[rows, columns], axis=(0, 1)) for rows in ends for columns in ends])


def lab(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return CIE Lab (CIE 1976, D65) of sRGB colours (..., 3) in [0, 1]; L is 0 to 100."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    share = linear @ XYZ.T / D65
    x, y, z = np.moveaxis(np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


PALETTE = lab(np.array(list(COLOURS.values())) / 255)
