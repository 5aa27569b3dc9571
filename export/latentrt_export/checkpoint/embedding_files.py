"""Files of textual inversion: their words, and each word's vectors for every text encoder.

Layouts: diffusers' (one tensor per word), AUTOMATIC1111's (`string_to_param`, `emb_params`), those of SDXL (`clip_l`
and `clip_g`, or `text_encoders_0` and `text_encoders_1`), and words bundled into a LoRA (`bundle_emb.WORD.…`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.errors import CheckpointError, first_few
from latentrt_export.checkpoint.family import Family
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.stored import FLOATS, Stored, header
from latentrt_export.networks.component import Config

BUNDLED = "bundle_emb."
# A whole key, or its end after a word, that names a text encoder or a layout.
KEY = re.compile(
    r"(?:(?P<word>.+?)\.)??"
    r"(?P<part>clip_[lgh]|text_encoders_[01]|emb_params(?:_out)?|string_to_param\.[^.]+|\*)"
)
# Keys of the first and the second text encoder. With one text encoder, all keys but the second's are its own.
FIRST, SECOND = ("clip_l", "text_encoders_0"), ("clip_g", "text_encoders_1")
# Keys that are not read: the id of the placeholder, and vectors that replace the encoder's output, which no other
# program reads either.
BESIDES = re.compile(r"(^string_to_token\..*|(^|\.)emb_params_out)$")


@dataclass(frozen=True)
class Word:
    """A word of a file and its vectors by text encoder. name: None if the file does not name the word.

    key: of the word's first tensor, for messages. left_out: keys of the word that are not read.
    """

    name: str | None
    tensors: Mapping[str, Stored]
    key: str
    left_out: tuple[str, ...] = ()


def words_in(file: Path, family: Family, configs: Mapping[str, Config]) -> list[Word]:
    """Returns every word of a file. configs: configs of the components by name.

    Raises CheckpointError for a file that is missing or damaged, of another kind, or for another family.
    """
    check_there("embedding", file)
    held = header(file)
    bundled = {key.removeprefix(BUNDLED): stored for key, stored in held.items() if key.startswith(BUNDLED)}
    words: dict[str | None, dict[str, Stored]] = defaultdict(dict)
    for key, stored in (bundled or held).items():
        if not key.startswith("string_to_token."):
            word, part = parted(key)
            words[word][part] = stored
    if not words:
        raise CheckpointError(refusal(file, [*held], family))
    return [word_of(file, name, parts, family, configs) for name, parts in words.items()]


def parted(key: str) -> tuple[str | None, str]:
    """Returns the word in a key, if any, and the rest that names a text encoder or a layout, or ""."""
    match = KEY.fullmatch(key)
    return (match["word"], match["part"]) if match else (key, "")


def has_bundled(file: Path) -> bool:
    """True if a file, such as a LoRA, has bundled words."""
    return any(key.startswith(BUNDLED) for key in header(file))


def word_of(
    file: Path, name: str | None, parts: Mapping[str, Stored], family: Family, configs: Mapping[str, Config]
) -> Word:
    """Returns one word with its vectors. Raises CheckpointError for vectors of another width."""
    read = {part: stored for part, stored in parts.items() if not BESIDES.search(part)}
    if [*family.encoders] == ["text_encoder"]:
        found = dict(zip(family.encoders, read.values(), strict=False)) if single(read) else {}
    else:
        places = {**dict.fromkeys(FIRST, "text_encoder"), **dict.fromkeys(SECOND, "text_encoder_2")}
        found = {places[part]: stored for part, stored in read.items() if places.get(part) in family.encoders}
    if not found or (len(found) < len(read) and len(family.encoders) > 1):
        raise CheckpointError(refusal(file, [stored.key for stored in parts.values()], family))
    for encoder, stored in found.items():
        width = configs[encoder]["hidden_size"]
        if stored.dtype not in FLOATS or len(stored.shape) not in (1, 2) or stored.shape[-1] != width:
            raise CheckpointError(
                f"{file}: {stored.key} is {stored.dtype} of shape {stored.shape}, expected floats whose last axis is "
                f"{width}, the width of {encoder}; give an embedding for {family.name}"
            )
    left_out = tuple(stored.key for part, stored in parts.items() if part not in read)
    return Word(name, found, next(iter(found.values())).key, left_out)


def single(read: Mapping[str, Stored]) -> bool:
    """True if a word has vectors for one text encoder."""
    return len(read) == 1 and not any(part in SECOND for part in read)


def refusal(file: Path, keys: list[str], family: Family) -> str:
    """The message about a file of another kind."""
    wanted = "one tensor per word" if [*family.encoders] == ["text_encoder"] else "clip_l and clip_g"
    return (
        f"{file} holds {first_few(sorted(keys)) or 'nothing'}, expected {wanted}; give an embedding for {family.name}"
    )
