"""Tags: LoRA files that a prompt names, `<lora:NAME:NUMBER>`. They are not encoded.

Source: the language of AUTOMATIC1111's stable-diffusion-webui 1.10, `parse_prompt` in modules/extra_networks.py and its
Lora extension. Tags are removed from the text, inside brackets too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args

from latentrt.prompt.errors import refuse
from latentrt.prompt.number import number

Order = Literal["a1111", "comfyui"]
ORDERS: tuple[Order, ...] = get_args(Order)
# The names of a tag's two numbers in their order; the second defaults to the first.
NUMBERS: dict[Order, tuple[str, str]] = {"a1111": ("te", "unet"), "comfyui": ("unet", "te")}

_TAG = re.compile(r"<(?P<kind>\w+):(?P<rest>[^>]+)>")
_BEGUN = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:", re.IGNORECASE)
LORA_KINDS = ("lora", "lyco")  # an earlier extension read LyCORIS's files under "lyco"
HYPERNET = "hypernet"
FORM = "<lora:NAME>, <lora:NAME:NUMBER> or <lora:NAME:TEXT-ENCODER:UNET>"


@dataclass(frozen=True)
class Tag:
    """A LoRA that a prompt names, with its scales. index: the position of the tag's first character in the prompt."""

    name: str
    unet: float
    text: float
    index: int


def tags_of(text: str, order: Order = "a1111", *, strict: bool = True) -> list[Tag]:
    """Returns the LoRA tags of a prompt.

    order: the order of two numbers: the text encoder's first, as in AUTOMATIC1111, or the UNet's first, as in ComfyUI's
    loaders. strict: a tag of another kind or an unclosed one is an error; AUTOMATIC1111 drops the first and takes the
    second for text. Raises RequestError, pointing at the tag, for these, for hypernetworks, and for a tag without a
    name or with invalid numbers.
    """
    found = []
    for match in _TAG.finditer(text):
        kind = match["kind"].lower()
        if kind in LORA_KINDS:
            found.append(_tag(text, match, order))
        elif kind == HYPERNET:
            refuse(text, match.start(), "got a hypernetwork, which latentrt does not support; leave it out")
        elif strict:
            _malformed(text, match.start(), f"a tag of the kind {match['kind'][:40]!r}")
    if strict and (begun := _BEGUN.search(blanked(text))):
        _malformed(text, begun.start(), "a tag that is never closed, or empty")
    return found


def untagged(text: str) -> str:
    """The prompt without tags of any kind."""
    return _TAG.sub("", text)


def blanked(text: str) -> str:
    """The prompt with its tags replaced by spaces, so that positions stay the same."""
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
    index = match.start("rest") + len(name) + 1
    numbers: dict[str, float] = {}
    for position, part in enumerate(parts):
        key, equals, digits = part.partition("=")
        known = NUMBERS[order]
        label = key.strip().lower() if equals else known[position] if position < len(known) else ""
        value = number(digits if equals else part)
        if label not in known:
            _malformed(text, index, f"{part.strip()[:40]!r} in a LoRA's tag, which latentrt does not know")
        if value is None:
            _malformed(text, index, f"the number {part.strip()[:40]!r} in a LoRA's tag")
        numbers[label] = value
        index += len(part) + 1
    first, second = NUMBERS[order]
    first_scale = numbers.get(first, 1.0)
    scales = {first: first_scale, second: numbers.get(second, first_scale)}
    return Tag(name.strip(), scales["unet"], scales["te"], match.start())


def _malformed(text: str, index: int, got: str) -> NoReturn:
    refuse(
        text, index, f"got {got}, expected {FORM} with finite numbers; correct it, or use --syntax plain for plain text"
    )
