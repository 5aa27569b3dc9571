"""Malformed files: manifests, headers of .safetensors, tokenizers, names of LoRA layers, generation data, prompts.

Documents are made by hypothesis from valid ones: values replaced by JSON of any kind, keys dropped and renamed, bytes
flipped. Reading ends in a result or in an error of this package, within a second, and opens no file elsewhere.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, open_bundle
from latentrt.bundle.manifest_hash import KEY
from latentrt.errors import CheckpointError
from latentrt.lora.weights import changed_weights, loras_of
from latentrt.prompt.reading import SYNTAXES, read
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.recipes import recipe_of
from latentrt.storage.safetensors import open_tensors
from torture.generated import for_each
from torture.opened import opened_outside
from torture.tally import Given, Tally

NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, -1, 2**31, 2**53 + 1, 2**63])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "..", "/etc/passwd", "\0", "\ud800", "unet.onnx", "1e999", "height"]
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5
)
SETTINGS = ["Steps: 20", "Negative prompt:", "Sampler: Euler a", "Size: 512x512", "Seed: 1", "CFG scale: 7"]
SETTINGS += ["Hires upscale: 2", 'Lora hashes: "a: 1"', "Version: v1.9.3", "{", '{"prompt": 1}', "\n", ", ", ": "]
PEER_CASES = 2000
HEADERS = "a.safetensors"
# By whether this package reads a file, and whether safetensors does.
OUTCOMES = {
    (True, True): "both read",
    (False, False): "both refuse",
    (True, False): "safetensors alone refuses",
    (False, True): "latentrt alone refuses",
}
MARKS = "()[]{}<>:,|\\\"'\n#-+*. \0"


def run(asked: Given) -> Tally:
    """As many cases of each kind as the count divided by the number of kinds."""
    tally = Tally()
    for kind, make in KINDS.items():
        folder = asked.scratch / kind.replace(" ", "-")
        folder.mkdir()
        strategy, work = make(folder)
        repeat(tally, kind, strategy, work, folder, asked.count // len(KINDS), asked.seed)
    tally.note = beside_safetensors(asked)
    return tally


def repeat(
    tally: Tally,
    kind: str,
    strategy: st.SearchStrategy[Any],
    work: Callable[[Any], Any],
    folder: Path,
    count: int,
    at: int,
) -> None:
    """Calls `work` with so many values of a strategy."""

    def case(value: Any) -> None:
        with opened_outside(folder) as outside:
            tally.attempt(kind, lambda: work(value))
        if outside:
            tally.add("read elsewhere", fault=f"{kind}: opened {sorted(outside)[0]}")

    before = tally.cases
    for_each(case, strategy, count=count, at=at)
    for _ in range(count - (tally.cases - before)):  # hypothesis stops where it knows all values of a strategy
        tally.attempt(kind, lambda: work(b""))


def beside_safetensors(asked: Given) -> str:
    """What the format's own package makes of the same headers, each read in a file by both."""
    from safetensors import SafetensorError, safe_open

    (folder := asked.scratch / "beside").mkdir()
    strategy, read_here = headers(folder)
    found = Counter[str]()

    def case(content: bytes) -> None:
        here = succeeds(lambda: read_here(content), CheckpointError)  # which writes the file
        there = succeeds(lambda: safe_open(folder / HEADERS, "np"), SafetensorError)
        found[OUTCOMES[here, there]] += 1

    for_each(case, strategy, count=min(PEER_CASES, asked.count), at=asked.seed)
    return "headers beside safetensors: " + ", ".join(f"{outcome} {count:,}" for outcome, count in found.most_common())


def succeeds(work: Callable[[], Any], refusal: type[Exception]) -> bool:
    """Whether the work ends without a refusal."""
    try:
        work()
    except refusal:
        return False
    return True


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    yield path
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield from places_in(value, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, document: Any, places: list[tuple[Any, ...]], text: bytes) -> bytes:
    """The document with some values changed, or its text with some bytes changed."""
    if draw(st.integers(0, 3)) == 0:
        return flipped(draw, text)
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places))
        owner = changed
        try:
            for key in path:
                owner = owner[key]
            alter(draw, owner, last)
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
    return json.dumps(changed).encode("utf-8", "surrogatepass")


def alter(draw: st.DrawFn, owner: Any, last: Any) -> None:
    """Replaces, drops or renames one value."""
    way = draw(st.integers(0, 3))
    if way == 0:
        del owner[last]
    elif way == 1 and isinstance(owner, dict):
        owner[draw(TEXTS)] = owner.pop(last)
    elif way == 2 and isinstance(owner[last], list):
        owner[last] = owner[last] * draw(st.integers(0, 3))
    else:
        owner[last] = draw(VALUES)


def flipped(draw: st.DrawFn, text: bytes) -> bytes:
    """The text with a few bytes changed, cut or repeated."""
    changed = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        changed[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.integers(0, 5)) == 0 else changed)


def manifests(folder: Path) -> tuple[st.SearchStrategy[bytes], Callable[[bytes], Any]]:
    """bundle.json of the built-in model without its hash, which would be wrong in nearly all cases."""
    source = folder_of("emoji")
    document = json.loads((source / MANIFEST).read_bytes())
    for file in document["files"]:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).hardlink_to(source / file)
    del document[KEY]
    places = [path for path in places_in(document) if path]

    def work(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(content)
        open_bundle(folder, verify=False)

    return spoilt(document, places, json.dumps(document).encode()), work


def headers(folder: Path) -> tuple[st.SearchStrategy[bytes], Callable[[bytes], Any]]:
    """A .safetensors file with a spoilt header, of the right or of any length."""
    tensors = {
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "__metadata__": {"format": "pt"},
    }
    places = [path for path in places_in(tensors) if path]
    file = folder / HEADERS

    @st.composite
    def whole(draw: st.DrawFn) -> bytes:
        header = draw(spoilt(tensors, places, json.dumps(tensors).encode()))
        length = len(header) if draw(st.integers(0, 4)) else draw(st.integers(0, 2**64 - 1))
        return length.to_bytes(8, "little") + header + draw(st.binary(min_size=0, max_size=40)).ljust(32, b"\0")

    def work(content: bytes) -> None:
        file.write_bytes(content)
        for tensor in open_tensors(file).tensors.values():
            tensor.read()

    return whole(), work


def tokenizers(folder: Path) -> tuple[st.SearchStrategy[bytes], Callable[[bytes], Any]]:
    """A small tokenizer.json."""
    source = json.loads((folder_of("emoji") / "tokenizer" / "tokenizer.json").read_bytes())
    source["model"]["vocab"] = dict(list(source["model"]["vocab"].items())[:20])
    source["model"]["merges"] = []
    places = [path for path in places_in(source) if path]
    file = folder / "tokenizer.json"

    def work(content: bytes) -> None:
        file.write_bytes(content)
        Tokenizer.load(file, length=8, bos=0, eos=1, pad=1)("a red apple")

    return spoilt(source, places, json.dumps(source).encode()), work


def loras(folder: Path) -> tuple[st.SearchStrategy[Any], Callable[[Any], Any]]:
    """LoRA files with names of layers that are nearly right."""
    bundle = open_bundle(folder_of("emoji"), verify=False)
    parts = [
        "lora_unet",
        "down_blocks",
        "0",
        "1",
        "attentions",
        "transformer_blocks",
        "attn1",
        "to_q",
        "conv",
        "mid_block",
    ]
    ends = ["lora_up.weight", "lora_down.weight", "lora_A.weight", "alpha", "hada_w1_a", "dora_scale", "weight", ""]
    names = st.builds(
        lambda mark, middle, end: f"{mark.join(middle)}.{end}",
        st.sampled_from(["_", "."]),
        st.lists(st.sampled_from(parts) | TEXTS, min_size=1, max_size=6),
        st.sampled_from(ends) | TEXTS,
    )
    shapes = st.lists(st.integers(0, 9), max_size=4)
    file = folder / "a.safetensors"

    def work(tensors: Mapping[str, list[int]]) -> None:
        write_zeros(file, tensors)
        changed_weights(bundle, loras_of({file: 1.0}))

    return st.dictionaries(names, shapes, min_size=1, max_size=4), work


def write_zeros(file: Path, tensors: Mapping[str, list[int]]) -> None:
    """Writes a .safetensors file of zeros."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode("utf-8", "replace")
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def generation_data(folder: Path) -> tuple[st.SearchStrategy[dict[str, str]], Callable[[dict[str, str]], Any]]:
    """Texts in pictures that look like those of other tools."""
    texts = st.lists(st.sampled_from(SETTINGS) | st.text(max_size=10), max_size=12).map("".join)
    keys = ["parameters", "prompt", "workflow", "Comment", "Dream", "sd-metadata", "UserComment"]
    return st.dictionaries(st.sampled_from(keys), texts, min_size=1, max_size=2), recipe_of


def prompts(folder: Path) -> tuple[st.SearchStrategy[str], Callable[[str], Any]]:
    """Prompts full of marks of the prompt language, in both syntaxes."""
    spec = open_bundle(folder_of("emoji"), verify=False).manifest.tokenizer
    assert spec is not None
    (folder / "tokenizer.json").hardlink_to(folder_of("emoji") / spec.file)
    tokenizer = Tokenizer.load(folder / "tokenizer.json", length=spec.length, bos=spec.bos, eos=spec.eos, pad=spec.pad)
    pieces = st.sampled_from(["a", "cat", "AND", "BREAK", ":1.2", ":0.5", "<lora:x:1>", *MARKS]) | st.text(max_size=5)

    def work(text: str) -> None:
        for syntax in SYNTAXES:
            read(text, tokenizer, 20, syntax=syntax)

    return st.lists(pieces, max_size=20).map(" ".join), work


KINDS: dict[str, Callable[[Path], tuple[st.SearchStrategy[Any], Callable[[Any], Any]]]] = {
    "manifest": manifests,
    "safetensors header": headers,
    "tokenizer": tokenizers,
    "LoRA names": loras,
    "generation data": generation_data,
    "prompt": prompts,
}
