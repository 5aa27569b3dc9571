from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args

import pytest

from latentrt.images.pillow import Fit
from latentrt.prompt import Order, Syntax
from latentrt.request.request import Request
from latentrt.request.rows import Choice, depending_on, rows_of
from latentrt.sampling.noise.source import NoiseName
from latentrt.sampling.resize import Upscaler
from latentrt.sampling.schedule import Spacing
from latentrt.sampling.start_latents import Posterior
from latentrt.sampling.tiling import Seamless


def test_only_the_prompt_must_be_given() -> None:
    [needed] = [field.name for field in fields(Request) if getattr(Request("a"), field.name) == "a"]
    assert needed == "prompt"


def test_a_request_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Request("a").steps = 5  # type: ignore[misc]


ROWS = rows_of(Request)


@pytest.mark.parametrize("name", ROWS)
def test_every_field_has_a_row(name: str) -> None:
    row = ROWS[name]
    assert row.help.endswith(".") and len(row.help) < 80
    assert row.only_with in {"", *ROWS}


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        *(("syntax", Syntax), ("lora_tags", Order), ("spacing", Spacing), ("noise", NoiseName), ("fit", Fit)),
        *(("posterior", Posterior), ("seamless", Seamless), ("hires_upscaler", Upscaler)),
    ],
)
def test_the_words_of_a_row_are_those_of_the_type(name: str, type_: Any) -> None:
    kind = ROWS[name].kind
    assert isinstance(kind, Choice) and kind.values == get_args(type_)


def test_fields_without_use_are_found_through_others() -> None:
    found = set(depending_on("init", ROWS))
    assert {
        "strength",
        "mask",
        "mask_blur",
        "mask_padding",
        "overlay",
        "extend",
    } <= found and "hires_steps" not in found
