"""HTML documents and SVG files that contain their style, and need no other file and no script."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

STYLE = Path(__file__).parent / "page.css"


def html(title: str, content: Iterable[str]) -> str:
    """The document. content: pieces of markup; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(filter(None, content)) + "\n</body>\n</html>\n"
    )


def picture(plot: str) -> str:
    """The plot in the markup `plot` as an SVG file with the page's background, for light and dark viewers."""
    found = re.search(r"<svg (.*?)>(.*)</svg>", plot, re.DOTALL)
    assert found is not None
    attributes, content = found.groups()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" {attributes}>\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>\n{content}\n</svg>\n'
    )
