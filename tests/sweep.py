"""What goes through all of something, for `make sweeps`; `make test` leaves it out."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

sweep = pytest.mark.sweep


def rest_swept(values: Iterable[Any], first: Sequence[Any]) -> list[Any]:
    """Returns the values as parameters: all but the `first` belong to the sweeps."""
    return [value if value in first else pytest.param(value, marks=sweep) for value in values]
