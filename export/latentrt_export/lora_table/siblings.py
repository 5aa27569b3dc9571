"""What a checkpoint has beside the weights in a graph, where the exporter kept one of several that are the same.

New models have many of those: norms are ones and zeros, biases zeros. So what a graph lacks is told from what it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]

# The norms of a block by a weight of it, and that weight's axis which they are as wide as.
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
    """Returns the shapes of the norms and biases that a component has and that are not among `shapes`, by key.

    shapes: those of its weights that a graph has, by their keys in the checkpoint.
    """
    paths = {key.removesuffix(WEIGHT): shape for key, shape in shapes.items() if key.endswith(WEIGHT)}
    norms = dict(norms_of(paths))
    biases = {path: shape[:1] for path, shape in (paths | norms).items() if not BIASLESS.fullmatch(path)}
    found = {f"{path}{WEIGHT}": shape for path, shape in norms.items()}
    found |= {f"{path}.bias": shape for path, shape in biases.items()}
    return {key: shape for key, shape in found.items() if key not in shapes}


def norms_of(paths: Mapping[str, Shape]) -> Iterator[tuple[str, Shape]]:
    """The norms beside these weights, and how wide each is."""
    for path, shape in paths.items():
        for pattern, beside in NORMS:
            if match := pattern.fullmatch(path):
                for name, axis in beside.items():
                    yield f"{match[1]}.{name}".removeprefix("."), (shape[axis],)
