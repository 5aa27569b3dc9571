"""Tags: LoRA files that a prompt names, `<lora:NAME:NUMBER>`, which are no part of what is encoded.

Source: the language of AUTOMATIC1111's stable-diffusion-webui 1.10, `parse_prompt` in modules/extra_networks.py and its
Lora extension. A tag is taken out of the text and leaves nothing behind, wherever it stands, inside brackets too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args

from latentrt.prompt.errors import refuse
from latentrt.prompt.number import number

Order = Literal["a1111", "comfyui"]
ORDERS: tuple[Order, ...] = get_args(Order)
# The names of the numbers of a tag in their order; the second is the first's where it is not given.
NUMBERS: dict[Order, tuple[str, str]] = {"a1111": ("te", "unet"), "comfyui": ("unet", "te")}

_TAG = re.compile(r"<(?P<kind>\w+):(?P<rest>[^>]+)>")
_BEGUN = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:", re.IGNORECASE)
LORA_KINDS = ("lora", "lyco")  # LyCORIS's files were another extension's once
HYPERNET = "hypernet"
FORM = "<lora:NAME>, <lora:NAME:NUMBER> or <lora:NAME:TEXT-ENCODER:UNET>"


@dataclass(frozen=True)
class Tag:
    """A LoRA that a prompt names, and how much of it. index: of the tag's first character in the prompt."""

    name: str
    unet: float
    text: float
    index: int


def tags_of(text: str, order: Order = "a1111", *, strict: bool = True) -> list[Tag]:
    """Returns the LoRA tags of a prompt.

    order: which of two numbers comes first, the text encoder's as in AUTOMATIC1111 or the UNet's as in ComfyUI's
    loaders. strict: whether a tag of another kind, or one that does not end, is an error; AUTOMATIC1111 drops the first
    and takes the second for text. Raises RequestError, pointing at the tag, for that, for hypernetworks, and for a tag
    without a name or with numbers that are none.
    """
    found = []
    for match in _TAG.finditer(text):
        kind = match["kind"].lower()
        if kind in LORA_KINDS:
            found.append(_tag(text, match, order))
        elif kind == HYPERNET:
            refuse(text, match.start(), "got a hypernetwork, which latentrt does not have; leave it out")
        elif strict:
            _malformed(text, match.start(), f"a tag of the kind {match['kind'][:40]!r}")
    if strict and (begun := _BEGUN.search(blanked(text))):
        _malformed(text, begun.start(), "a tag that is never closed, or empty")
    return found


def untagged(text: str) -> str:
    """The prompt without its tags, of any kind."""
    return _TAG.sub("", text)


def blanked(text: str) -> str:
    """The prompt with blanks where its tags are, so that every character has its place."""
    return _TAG.sub(lambda match: " " * len(match[0]), text)


def first_tag(text: str) -> int | None:
    """Position of the first tag in a prompt."""
    found = _TAG.search(text)
    return found.start() if found else None


def _tag(text: str, match: re.Match[str], order: Order) -> Tag:
    """The tag of a match."""
    name, *parts = match["rest"].split(":")
    if not name.strip():
        _malformed(text, match.start(), "a LoRA without a name")
    place = match.start("rest") + len(name) + 1
    given: dict[str, float] = {}
    for position, part in enumerate(parts):
        key, equals, digits = part.partition("=")
        known = NUMBERS[order]
        meant = key.strip().lower() if equals else known[position] if position < len(known) else ""
        value = number(digits if equals else part)
        if meant not in known:
            _malformed(text, place, f"{part.strip()[:40]!r} in a LoRA's tag, which latentrt does not know")
        if value is None:
            _malformed(text, place, f"the number {part.strip()[:40]!r} in a LoRA's tag")
        given[meant] = value
        place += len(part) + 1
    first, second = NUMBERS[order]
    one = given.get(first, 1.0)
    both = {first: one, second: given.get(second, one)}
    return Tag(name.strip(), both["unet"], both["te"], match.start())


def _malformed(text: str, index: int, got: str) -> NoReturn:
    refuse(
        text, index, f"got {got}, expected {FORM} with finite numbers; correct it, or use --syntax plain for plain text"
    )
