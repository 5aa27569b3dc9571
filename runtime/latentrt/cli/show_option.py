"""The option that draws finished pictures in the terminal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import note

if TYPE_CHECKING:
    from PIL.Image import Image

FORMS = ("auto", "kitty", "sixel", "blocks")


def show_option(option: Callable[..., Callable[[Any], Any]] = click.option) -> Callable[[Any], Any]:
    """The option --show."""
    return option(
        "--show",
        "form",
        is_flag=False,
        flag_value=FORMS[0],
        type=click.Choice(FORMS),
        help="Draw the pictures in the terminal, on stderr: by kitty's protocol, sixels or half blocks.",
    )


def show(images: Iterable[Image], form: str | None) -> None:
    """Draws the pictures on stderr; nothing without a form."""
    if form is None:
        return
    from latentrt.images.terminal import drawn, form_for

    chosen, columns = form_for(os.environ) if form == FORMS[0] else form, shutil.get_terminal_size().columns
    for image in images:
        note(drawn(image, chosen, columns))
