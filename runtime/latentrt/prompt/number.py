"""Numbers written in a prompt."""

import math


def number(digits: str) -> float | None:
    """Returns `digits` as a number; None if it is not one ("1.2.3") or is not finite ("9" * 400)."""
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
