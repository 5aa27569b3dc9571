"""Positions of a checkpoint's weights in a bundle's graphs, where they may be renamed, transposed, stacked or hoisted.

A canonical graph names each weight like the traced module (`latentrt_export.networks.hoist`). Suffixes may follow: a
shape, for transposed matrices and for norms of images with axes for height and width; `.fp16`, for storage in fp16; and
`.decoded`, for what a weight in few bits is decoded to. Weights hoisted out of the UNet are stacked in `cross_kv` and
`time_bias`, in the order of the UNet's modules (down, up, middle); weights hoisted out of other networks follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from latentrt.bundle.folder import MANIFEST, Bundle
from latentrt.errors import BundleError
from latentrt.lora.places import Place
from latentrt_export.lora_table.initializers import Counted, decoded_in, initializers_of
from latentrt_export.lora_table.siblings import siblings_of

# Of several parallel time embeddings, the first is the UNet's.
WEIGHT = re.compile(
    r"(?:branches\.0\.)?(?P<key>(?:.+\.)?(?:weight|bias))(?P<shape>\.\d+(?:x\d+)+)?(?:\.fp16)?(?P<decoded>\.decoded)?"
)
# Around the name of a weight that was held in half precision while it was exported: see `networks.half_weights`.
HALVED = re.compile(r"parametrizations\.weight\.original")
# Prefix of a weight's name in a graph, and its prefix in the checkpoint; the first match counts.
PREFIXES: dict[str, dict[str, str]] = {
    "unet": {"unet.": ""},
    "time_bias": {
        **{"embedding.": "time_embedding.", "added.embedding.": "add_embedding."},
        "class_embedding.": "class_embedding.",
    },
    "cross_kv": {},
}
TEXT_PREFIXES = {
    **{"layers.": "encoder.layers.", "projection.": "text_projection."},
    **{name: name for name in ("embeddings.", "final_layer_norm.", "model.")},
}
STACKED, BRANCH = ("project.weight", "project.bias"), re.compile(r"branches\.(\d+)\.")
# Weights that an encoder reads twice: for the whole text, and for its end.
READ_TWICE = ("final_layer_norm.weight", "final_layer_norm.bias")
TOKENS = "embeddings.token_embedding.weight"
LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
SIDES = ("down_blocks", "up_blocks", "mid_block")
QUERY, CONVOLUTION = re.compile(r"(.+\.attn2)\.to_q\.weight"), re.compile(r"(.+\.resnets\.\d+)\.conv1\.weight")


def places_of(bundle: Bundle) -> dict[str, dict[str, Place]]:
    """Returns the position of each weight that a LoRA may change, by the checkpoint's component and key.

    Raises BundleError for graphs that do not fit together.
    """
    graphs = {name: places_in(bundle, name, prefixes) for name, prefixes in PREFIXES.items()}
    unet = {key: place for key, place in (graphs["unet"] | graphs["time_bias"]).items() if key not in STACKED}
    queries, convolutions = ordered(QUERY, graphs["unet"]), ordered(CONVOLUTION, graphs["unet"])
    kv = [(f"{path}.{leaf}", rows) for path, rows in queries for leaf in ("to_k", "to_v")]
    times = [(f"{path}.time_emb_proj", rows) for path, rows in convolutions]
    for component, parts in (("cross_kv", kv), ("time_bias", times)):
        for stacked in STACKED:
            leaf = stacked.rpartition(".")[2]
            layers = [(f"{path}.{leaf}", rows) for path, rows in parts]
            unet |= unstacked(bundle, graphs[component].get(stacked), layers, component, required=leaf == "weight")
    encoders = bundle.manifest.text_encoders
    return {"unet": unet, **{name: places_in(bundle, name, TEXT_PREFIXES) for name in encoders}}


def copies_of(bundle: Bundle) -> dict[str, dict[str, Place]]:
    """Returns the position of each of these weights in the shallow UNet too, which has the last layers' weights."""
    shallow = bundle.manifest.shallow
    return {} if shallow is None else {"unet": places_in(bundle, shallow, PREFIXES["unet"])}


def unread_of(bundle: Bundle, places: Mapping[str, Mapping[str, Place]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of weights that a checkpoint has but no graph needs, by component and key.

    These are an encoder's layers after the last one in its graph, which have the same shapes, and the final norm.
    """
    found: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in places}
    for name, count in (bundle.manifest.text.unread if bundle.manifest.text else {}).items():
        layers = {key: LAYER.match(key) for key in places[name]}
        last = max(int(match[1]) for match in layers.values() if match)
        for key, match in layers.items():
            if match and int(match[1]) == last:
                rest = key[match.end() :]
                found[name] |= {
                    f"encoder.layers.{last + more}.{rest}": places[name][key].shape for more in range(1, count + 1)
                }
        width = places[name][TOKENS].shape[1:] if count and TOKENS in places[name] else None
        found[name] |= {key: width for key in READ_TWICE if width and key not in places[name]}
    return found


def twins_of(
    places: Mapping[str, Mapping[str, Place]], unread: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of norms and biases that the graphs replace by equal ones, by component and key."""
    return {
        name: siblings_of({**{key: place.shape for key, place in found.items()}, **unread[name]})
        for name, found in places.items()
    }


def places_in(bundle: Bundle, component: str, prefixes: Mapping[str, str]) -> dict[str, Place]:
    """The weights and biases of one graph, by key in the checkpoint; stacked weights keep their name."""
    graph = bundle.path(bundle.manifest.components[component].file)
    known: dict[str, Counted] = {**initializers_of(graph), **decoded_in(graph)}
    branches = {match[1] for name in known if (match := BRANCH.match(name))}
    found: dict[str, Place] = {}
    for name, one in known.items():
        match = WEIGHT.fullmatch(HALVED.sub("weight", name))
        own = None if match is None else checkpoint_shape(one.shape, match["shape"])
        before = next((prefix for prefix in prefixes if match and match["key"].startswith(prefix)), None)
        if match is None or own is None or (match["key"] not in STACKED and before is None):
            continue
        key = match["key"] if before is None else prefixes[before] + match["key"].removeprefix(before)
        # The exporter keeps one copy of equal weights, and one of equal layers.
        twins = {BRANCH.sub(f"branches.{branch}.", name) for branch in branches if BRANCH.match(name)}
        shared = (one.uses > 1 and key not in READ_TWICE) or (key not in STACKED and not twins <= known.keys())
        transposed = match["shape"] is not None and len(own) == 2
        found[key] = Place(component, name, one, transposed, slice(0, own[0]), own, shared or key in found)
    return found


def checkpoint_shape(shape: tuple[int, ...], suffix: str | None) -> tuple[int, ...] | None:
    """The shape in the checkpoint of a weight with this shape in a graph; None if it is ambiguous.

    suffix: the shape in the weight's name; None if the name has none, which means the same shape.
    """
    if suffix is None:
        return shape
    if len(shape) == 2:
        return shape[::-1]
    return (shape[0],) if math.prod(shape) == shape[0] else None


def ordered(pattern: re.Pattern[str], places: Mapping[str, Place]) -> list[tuple[str, int]]:
    """Paths and numbers of rows of the layers that match the pattern, in the order of the UNet's modules."""
    found = [(match[1], place.shape[0]) for key, place in places.items() if (match := pattern.fullmatch(key))]
    return sorted(found, key=lambda layer: module_order(layer[0]))


def module_order(path: str) -> tuple[int, ...]:
    """Sort key that gives a UNet's layers of one kind the order of its modules."""
    return SIDES.index(path.split(".", 1)[0]), *map(int, re.findall(r"\d+", path.removesuffix(".attn2")))


def unstacked(
    bundle: Bundle, whole: Place | None, parts: Iterable[tuple[str, int]], component: str, *, required: bool
) -> dict[str, Place]:
    """The layers stacked in one weight, by key. parts: their keys and numbers of rows, in order.

    Raises BundleError if the weight has too few rows, or is missing and required.
    """
    found, start = {}, 0
    for key, rows in parts:
        if whole is not None:
            found[key] = replace(whole, rows=slice(start, start + rows), shape=(rows, *whole.shape[1:]))
        start += rows
    rows = 0 if whole is None else whole.shape[0]
    if rows < start and (required or whole is not None):
        raise BundleError(
            f"{bundle.folder / MANIFEST}: {component} has {rows} rows of weights, expected the {start} that the unet "
            "reads; export the bundle again"
        )
    return found
