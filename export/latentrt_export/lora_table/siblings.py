"""Norms and biases of a checkpoint that are not in a graph, because the exporter keeps one of several equal weights.

New models have many equal ones: norms are ones and zeros, biases are zeros. Missing ones are derived from the layers
in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]

# By a weight of a block: the names of the block's norms, and the axis of the weight that has their width.
NORMS = (
    (re.compile(r"(.+\.resnets\.\d+)\.conv1"), {"norm1": 1, "norm2": 0}),
    (re.compile(r"(.+\.attentions\.\d+)\.proj_in"), {"norm": 1}),
    (re.compile(r"(.+\.transformer_blocks\.\d+)\.attn1\.to_q"), {"norm1": 1, "norm3": 1}),
    (re.compile(r"(.+\.transformer_blocks\.\d+)\.attn2\.to_q"), {"norm2": 1}),
    (re.compile(r"()conv_out"), {"conv_norm_out": 1}),
    (re.compile(r"(encoder\.layers\.\d+)\.mlp\.fc1"), {"layer_norm1": 1, "layer_norm2": 1}),
    (re.compile(r"()embeddings\.token_embedding"), {"final_layer_norm": 1}),
)
BIASLESS = re.compile(r".+\.attn[12]\.to_[qkv]|embeddings\..+|text_projection")
WEIGHT = ".weight"


def siblings_of(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns the shapes of a component's norms and biases that are missing in `shapes`, by key.

    shapes: shapes of the weights in the graph, by key in the checkpoint.
    """
    paths = {key.removesuffix(WEIGHT): shape for key, shape in shapes.items() if key.endswith(WEIGHT)}
    norms = dict(norms_of(paths))
    biases = {path: shape[:1] for path, shape in (paths | norms).items() if not BIASLESS.fullmatch(path)}
    found = {f"{path}{WEIGHT}": shape for path, shape in norms.items()}
    found |= {f"{path}.bias": shape for path, shape in biases.items()}
    return {key: shape for key, shape in found.items() if key not in shapes}


def norms_of(paths: Mapping[str, Shape]) -> Iterator[tuple[str, Shape]]:
    """Yields the norms of the blocks of these weights, with their shapes."""
    for path, shape in paths.items():
        for pattern, beside in NORMS:
            if match := pattern.fullmatch(path):
                for name, axis in beside.items():
                    yield f"{match[1]}.{name}".removeprefix("."), (shape[axis],)
