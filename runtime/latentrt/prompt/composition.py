"""Composition: several prompts joined with the word AND, each with its own guidance."""

import re

from latentrt.errors import RequestError
from latentrt.prompt.number import number

AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r":\s*(?P<weight>[-+]?(?:\d+\.?|\d*\.\d+))\s*\Z")


def composed(text: str) -> list[tuple[str, float]]:
    """Returns the prompts between the ANDs, in order, with their weights: ` :0.5` at a prompt's end, or 1.

    The whole word AND divides, inside brackets too. A colon and a number at the end are a weight even without AND:
    "ratio 16:9" is "ratio 16" of weight 9. Spaces at the end of a prompt are dropped. Raises RequestError for a weight
    that is not finite.

    Source: the language of A1111 1.10 (`get_multicond_prompt_list` in modules/prompt_parser.py), after Liu et al. 2022,
    "Compositional Visual Generation with Composable Diffusion Models".
    """
    return [_parted(part) for part in AND.split(text)]


def _parted(text: str) -> tuple[str, float]:
    found = _WEIGHT.search(text)
    if found is None:
        return text.rstrip(), 1.0
    weight = number(found["weight"])
    if weight is None:
        raise RequestError(
            f"prompt: the weight {found['weight'][:40]!r} after AND is not finite, expected one such as 0.5"
        )
    return text[: found.start()].rstrip(), weight
