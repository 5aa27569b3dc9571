"""Errors that point at a character of a prompt."""

from typing import NoReturn

from latentrt.errors import RequestError

SHOWN = 60  # characters of the prompt on the line with the ^


def refuse(text: str, index: int, message: str) -> NoReturn:
    """Raises RequestError about the character at `index`, with the prompt around it and a ^ under it.

    Positions count code points from 1, so the `^` is shifted after characters that are not one column wide.
    """
    first = max(0, min(index - SHOWN // 2, len(text) - SHOWN))
    window = "".join(char if char.isprintable() else " " for char in text[first : first + SHOWN])
    raise RequestError(f"prompt: character {index + 1}: {message}\n  {window}\n  {' ' * (index - first)}^")
