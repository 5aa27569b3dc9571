"""The options that leave texts out of a picture's file: its settings, and the mark that it was generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def text_options(option: Callable[..., Callable[[Any], Any]] = click.option) -> Callable[[Any], Any]:
    """The options --no-metadata and --no-mark."""

    def decorated(command: Any) -> Any:
        settings = option("--no-metadata", is_flag=True, help="Leave prompt and settings out of the file.")
        mark = option("--no-mark", is_flag=True, help="Leave out the mark (XMP) that the picture was generated.")
        return settings(mark(command))

    return decorated


def texts_kept(options: dict[str, Any]) -> dict[str, bool]:
    """The two options, taken out of the others, as `Result.save` has them."""
    return {"metadata": not options.pop("no_metadata"), "mark": not options.pop("no_mark")}
