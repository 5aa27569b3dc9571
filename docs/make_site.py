"""Write the sources of the site, build/site-pages, from which `make docs` builds it: python docs/make_site.py.

They are docs/, the files outside it that pages link to, and every command's help. Links are written for the repository,
where a page is plain Markdown, so some lead out of docs/. Here the README becomes the first page, other Markdown a page
each, a source file a page with its text, the notebook one with its cells; links are turned to where these lie.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from latentrt.cli import COMMANDS, HEADINGS, cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUT = ROOT / "build" / "site-pages"
TOP = (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md")
CODE = re.compile(r"^(```.*?^```)", re.S | re.M)
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")
WITH_LINKS = (".md", ".ipynb")
COLUMNS = 100
ABOUT_COMMANDS = """# Commands

Every command's `--help`. The fields of a request are in [the table of options](options.md) too.
"""


def main() -> None:
    """Writes the sources, anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(DOCS, OUT, ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"))
    for path in pages([*TOP, *sorted(DOCS.glob("*.md"))]):
        write(place_of(path), page_of(path))
    write("commands.md", commands())


def write(place: str, text: str) -> None:
    """Writes a page."""
    path = OUT / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pages(queue: list[Path]) -> Iterator[Path]:
    """These files and those that they or each other link to, each once; of docs/ only its pages."""
    seen: set[Path] = set()
    while queue:
        page = queue.pop()
        if page not in seen:
            seen.add(page)
            yield page
            queue += targets(page) if page.suffix in WITH_LINKS else []


def targets(page: Path) -> Iterator[Path]:
    """The files that a page links to, but for pictures and the like of docs/, which are copied with it."""
    for link in LINK.findall(CODE.sub("", text_of(page))):
        target = (page.parent / link).resolve()
        if target.is_file() and (target.suffix == ".md" or not target.is_relative_to(DOCS)):
            yield target


def place_of(path: Path) -> str:
    """Where a file of the repository lies in the site's sources."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return name if path.suffix == ".md" else f"source/{name}.md"


def page_of(path: Path) -> str:
    """The Markdown of a file: its own, links turned, or the text of a source."""
    text = text_of(path)
    if path.suffix in WITH_LINKS:
        return turned(text, path)
    language = "py" if path.suffix == ".py" else ""
    return f"# {path.relative_to(ROOT).as_posix()}\n\n~~~~~{language}\n{text}\n~~~~~\n"


def text_of(path: Path) -> str:
    """The text of a file, a notebook's as Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


def turned(text: str, path: Path) -> str:
    """A page's text with its links leading to where the site has their targets; code stays as it is."""
    here = os.path.dirname(place_of(path))

    def turn(link: re.Match[str]) -> str:
        target = (path.parent / link[1]).resolve()
        return os.path.relpath(place_of(target), here or ".") if target.is_file() else link[1]

    parts = CODE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(turn, part) for part in parts)


def commands() -> str:
    """The page of the commands: each one's help."""
    parts = [ABOUT_COMMANDS]
    for heading, names in HEADINGS.items():
        parts.append(f"## {heading}\n")
        parts += (f"### latentrt {name}\n\n{COMMANDS[name]}\n\n```text\n{help_of(name)}\n```\n" for name in names)
    return "\n".join(parts)


def help_of(name: str) -> str:
    """The help of a command, as a terminal of some width shows it."""
    with click.Context(cli, info_name="latentrt") as parent:
        command = cli.get_command(parent, name)
        assert command is not None
        size = {"terminal_width": COLUMNS, "max_content_width": COLUMNS}
        return command.get_help(click.Context(command, parent, name, **size))


if __name__ == "__main__":
    main()
