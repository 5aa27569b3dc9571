"""The one place where digits of a prompt become a number."""

import math


def number(digits: str) -> float | None:
    """Returns the number that `digits` spells; None for what is none ("1.2.3") or is not finite ("9" * 400)."""
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
