"""Recipes: generation data that other tools write into pictures, converted to fields of `latentrt.Request`.

Each layout has one module or table with a function that takes the picture's texts and returns a `Recipe`; None if they
are in another layout.
"""

from __future__ import annotations

from pathlib import Path

from latentrt.errors import RequestError
from latentrt.recipes import comfyui, infotext, tools
from latentrt.recipes.recipe import Recipe
from latentrt.recipes.texts import read_texts

__all__ = ["Recipe", "infotext", "read_recipe", "recipe", "recipe_of", "texts"]

READERS = (tools.recipe_of, comfyui.recipe_of, infotext.recipe_of)


def read_recipe(path: Path) -> Recipe:
    """Recipe in a picture of another tool: in PNG text chunks, EXIF, XMP or a JPEG comment.

    Raises RequestError for a file that is not a picture or holds no recipe.
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
    """Recipe in the texts of a picture, by their names; None if they hold none."""
    return next((found for reader in READERS if (found := reader(texts)) is not None), None)
