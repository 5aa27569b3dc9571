"""How a picture says that it was made, whichever tool wrote it, in the words of `latentrt.Request` where there are any.

A layout is a file here, or a table, and a function from the picture's texts to a `Recipe`; None where they are in
another one.
"""

from __future__ import annotations

from pathlib import Path

from latentrt.errors import RequestError
from latentrt.recipes import comfyui, infotext, tools
from latentrt.recipes.recipe import Recipe
from latentrt.recipes.texts import read_texts

__all__ = ["Recipe", "read_recipe", "recipe_of"]

READERS = (tools.recipe_of, comfyui.recipe_of, infotext.recipe_of)


def read_recipe(path: Path) -> Recipe:
    """What a picture of another tool says of its making. Raises RequestError for no picture, and for one that does not.

    PNG's text chunks, EXIF and XMP of PNG, JPEG and WebP, and JPEG's comment are looked at.
    """
    texts = read_texts(path)
    found = recipe_of(texts)
    if found is None:
        others = f"; its texts are {', '.join(sorted(texts))}" if texts else ""
        raise RequestError(
            f"{path}: holds no generation data{others}; images saved with --no-metadata, or by sites that strip it, "
            "have none"
        )
    return found


def recipe_of(texts: dict[str, str]) -> Recipe | None:
    """What the texts of a picture, by their names, say of its making; None where they say nothing."""
    return next((found for reader in READERS if (found := reader(texts)) is not None), None)
