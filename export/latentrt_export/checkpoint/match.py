"""Matching of a component's module with a checkpoint's tensors: every weight found with its shape, or an error."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from latentrt.errors import CheckpointError, first_few
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.layouts import Shape, Tensors
from latentrt_export.checkpoint.stored import FLOATS, Stored, rows_of
from latentrt_export.networks.component import Config

# Keys of training and of older versions that no module has.
IGNORED = re.compile(r"(^|\.)(position_ids$|loss\.|model_ema\.)")
# Keys that each module creates itself, or that training counts in; leaving them out is not reported.
MADE = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")
# The part of a component in which an unknown key means another module, such as one with more layers. In a UNet, a
# ControlNet or an adapter that is every key: an additional tensor would change the picture. Files also have CLIP's
# vision tower and projections beside a text tower, and parts of the training beside a VAE, which are not needed.
TEXT_TOWER = re.compile(
    r"^(?!.*\b(vision_model|visual)\.).*"
    r"\b(embeddings\.|encoder\.layers\.|encoder\.block\.|resblocks\.|final_layer_norm|ln_final|token_embedding|positional_embedding"
    r"|model\.layers\.|attn_layers\.|embed_tokens|embed_positions|token_emb\.|pos_emb\.)"
)
VISION_TOWER = re.compile(r"^(?!.*\btext_model\.).*\b(vision_model|visual_projection)\.")
ALL = re.compile("")
BODIES: Mapping[str, re.Pattern[str]] = {
    "vae": re.compile(r"\b(encoder|decoder|quant_conv|post_quant_conv)\."),
    "text_encoder": TEXT_TOWER,
    "text_encoder_2": TEXT_TOWER,
    "layout_encoder": TEXT_TOWER,
    "prior_text_encoder": TEXT_TOWER,
    **dict.fromkeys(("image_encoder", "image_embedder"), VISION_TOWER),
}


@dataclass(frozen=True)
class ComponentSource:
    """A checkpoint's data for one component: its config, its tensors, and the conversion of their keys.

    unread: pattern of keys that the module does not have, with entries of the config in braces.
    """

    place: str
    config: Config
    tensors: Mapping[str, Stored]
    convert: Callable[[Tensors, Config], Tensors]
    unread: str | None = None


def located(name: str, source: ComponentSource) -> dict[str, Stored]:
    """Returns the stored tensor of every weight of the component's module. Raises CheckpointError with all misfits."""
    wanted, stored = wanted_by(name, source), [*source.tensors.values()]
    # Conversions run on stand-ins without memory: each row repeats one number that no other row has.
    firsts = list(itertools.accumulate((rows_of(tensor.shape) + 1 for tensor in stored), initial=0))
    numbers = {
        key: stand_in(first, tensor.shape) for first, (key, tensor) in zip(firsts, source.tensors.items(), strict=False)
    }
    try:
        converted = {key: t for key, t in source.convert(numbers, source.config).items() if t is not None}
    except KeyError as error:
        raise CheckpointError(f"{source.place} lacks {error} of its {name}: fetch the checkpoint again") from error
    # Text encoders' keys begin with `text_model.` in old files and in modules with a projection.
    bare = {key.removeprefix("text_model."): t for key, t in converted.items()}
    known = {key: bare.get(key.removeprefix("text_model.")) for key in wanted}
    found = {key: original(t, stored, firsts) for key, t in known.items() if t is not None}
    found_problems = problems(name, source, wanted, found)
    if found_problems:
        raise CheckpointError(
            f"the {name} in {source.place} does not fit its config: {'; '.join(found_problems)}. Fetch the checkpoint "
            "again; for a single file, give the configs of other widths by --configs DIR (in Python configs=), and a "
            "missing VAE by --vae PATH (vae=)"
        )
    return {key: replace(found[key], shape=shape) for key, shape in wanted.items()}


def stand_in(first: int, shape: Shape) -> torch.Tensor:
    """Returns a tensor of that shape with memory for one number per row: `first`, `first` + 1, ...

    One more number follows the last row, for conversions that expect more rows than the tensor has.
    """
    rows = torch.arange(first, first + rows_of(shape) + 1)[: rows_of(shape)]
    return rows.reshape(len(rows), *[1] * (len(shape) - 1)).expand(shape) if shape else rows[0]


def original(given: torch.Tensor, stored: Sequence[Stored], firsts: Sequence[int]) -> Stored:
    """Returns the stored tensor or rows that a converted stand-in represents, in its converted shape."""
    number = int(given.as_strided((), ()))
    place = bisect.bisect_right(firsts, number) - 1
    turned = given.ndim == 2 and given.stride(0) == 0 != given.stride(1)
    row = number - firsts[place]
    found = replace(stored[place], row=row, turned=turned, shape=tuple(given.shape))
    if turned or not given.ndim:
        return found
    rows = [one - firsts[place] for one in given.as_strided((len(given),), (given.stride(0),)).tolist()]
    return found if rows == list(range(row, row + len(rows))) else replace(found, rows=tuple(rows))


def problems(name: str, source: ComponentSource, wanted: Mapping[str, Shape], found: Mapping[str, Stored]) -> list[str]:
    """Returns one line per kind of problem. `found` has shapes after conversion, the source those in the file."""
    used = Counter[str]()
    for tensor in found.values():
        used[tensor.key] += math.prod(tensor.shape)
    shapes = {tensor.key: tensor.shape for tensor in source.tensors.values()}
    misfits = [
        f"{tensor.key} (got {shapes[tensor.key]}, expected {wanted[key]})"
        for key, tensor in found.items()
        if tensor.shape != wanted[key] or used[tensor.key] != math.prod(shapes[tensor.key])
    ]
    alien = [f"{tensor.key} ({tensor.dtype})" for tensor in found.values() if tensor.dtype not in FLOATS]
    kinds = {
        "missing": [key for key in wanted if key not in found],
        "of another shape": misfits,
        f"of a type other than {', '.join(FLOATS)}": alien,
        "unexpected": unexpected(name, source, used),
    }
    return [f"{kind}: {first_few(keys)}" for kind, keys in kinds.items() if keys]


def unexpected(name: str, source: ComponentSource, used: Mapping[str, int]) -> list[str]:
    """Returns the keys that nothing reads and that may not be left out."""
    unread = source.unread and source.unread.format(**source.config)
    body = BODIES.get(name, ALL)
    unused = (key for key, tensor in source.tensors.items() if tensor.key not in used)
    return [
        key
        for key in unused
        if not IGNORED.search(key) and not (unread and re.search(unread, key)) and body.search(key)
    ]


def left_out(keys: Iterable[str], used: Iterable[str]) -> list[str]:
    """Returns the keys that are not in `used`, grouped by prefix: `model_ema.*`."""
    known, read = set[str](), set(used)
    for key in read:
        known.update(itertools.accumulate(key.split("."), "{}.{}".format))
    groups = defaultdict[str, list[str]](list)
    for key in keys:
        if key not in read and not MADE.search(key):
            starts = itertools.accumulate(key.split("."), "{}.{}".format)
            groups[next((start for start in starts if start not in known), key)].append(key)
    return [held[0] if len(held) == 1 else f"{start}.*" for start, held in groups.items()]


def wanted_by(name: str, source: ComponentSource) -> dict[str, Shape]:
    """Returns the shape of each tensor that the component's module has."""
    try:
        return {key: tuple(tensor.shape) for key, tensor in BUILDERS[name](source.config).state_dict().items()}
    except Exception as error:  # any error of diffusers or transformers for a wrong config
        raise CheckpointError(f"the {name} of {source.place} cannot be built: {error}. Correct its config") from error
