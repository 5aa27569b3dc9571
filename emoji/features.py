"""How far apart two pictures are: 32x32 colour and edges, the one measure for near-duplicates and for evaluation."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

GRID = 32
EDGE_WEIGHT = 1.0


def feature(picture: Array) -> Array:
    """Return the feature of a picture on a white background: (4096,) float32.

    `picture` is (side, side, 3) float32 in [0, 1], `side` a multiple of 32. The feature is the mean colour of each cell
    of a 32x32 grid (3,072 numbers) and, per cell, the length of the luma gradient by central differences (1,024
    numbers; luma as ITU-R BT.601 weighs it). Both parts are scaled so that the Euclidean distance of two features is
    sqrt(d_colour^2 + d_edges^2), each d the root mean square over its cells: 0 for equal pictures, 1 for black and
    white.
    """
    cell = picture.shape[0] // GRID
    colour = picture.reshape(GRID, cell, GRID, cell, 3).mean(axis=(1, 3))
    luma = colour @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    edges = np.hypot(*np.gradient(luma))
    parts = colour.ravel() / np.sqrt(colour.size), EDGE_WEIGHT * edges.ravel() / np.sqrt(edges.size)
    return np.concatenate(parts).astype(np.float32)


def distances(some: Array, others: Array) -> Array:
    """Return the distances of every pair: (len(some), len(others)) float32, from two stacks of features."""
    squares = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    return np.sqrt(np.maximum(squares, 0))
