from dataclasses import FrozenInstanceError, fields

import pytest

from latentrt.request.request import Request


def test_only_the_prompt_must_be_given() -> None:
    [needed] = [field.name for field in fields(Request) if getattr(Request("a"), field.name) == "a"]
    assert needed == "prompt"


def test_a_request_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Request("a").steps = 5  # type: ignore[misc]


@pytest.mark.parametrize("field", [field.name for field in fields(Request)])
def test_every_field_is_described_or_a_plain_word(field: str) -> None:
    described = Request.__doc__ or ""
    assert field in described or field in ("negative", "steps", "sampler", "batch")
