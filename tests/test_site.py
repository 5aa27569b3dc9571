"""The sources of the site: links lead somewhere, files outside docs/ are pages, and every command has its help."""

import re
import runpy
from pathlib import Path

import pytest

from latentrt.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SITE = runpy.run_path(str(ROOT / "docs" / "make_site.py"))
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)[)#]")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "pages"
    SITE["main"].__globals__["OUT"] = folder
    SITE["main"]()
    return folder


def test_every_link_leads_to_a_file_of_the_site(out):
    pages = list(out.rglob("*.md"))
    links = [(page, link) for page in pages for link in LINK.findall(SITE["CODE"].sub("", page.read_text()))]
    assert len(links) > 200
    assert [(str(page), link) for page, link in links if not (page.parent / link).exists()] == []
    assert all((page.parent / link).resolve().is_relative_to(out) for page, link in links)


def test_the_readme_is_the_first_page_and_a_source_a_page_of_its_own(out):
    assert (out / "index.md").read_text().startswith("# latentrt\n")
    assert "](pictures/gallery.png)" in (out / "index.md").read_text()
    assert "](source/export/latentrt_export/graph/costs.py.md)" in (out / "estimate.md").read_text()
    assert "~~~~~py\n" in (out / "source/export/latentrt_export/graph/costs.py.md").read_text()


def test_code_is_left_as_it_is():
    code = "```\n[a](../README.md)\n```"
    assert (
        SITE["turned"](f"[a](../README.md#install)\n{code}", ROOT / "docs" / "x.md") == f"[a](index.md#install)\n{code}"
    )


def test_every_command_has_its_help(out):
    text = (out / "commands.md").read_text()
    assert re.findall(r"^### latentrt (\S+)$", text, re.M) and set(COMMANDS) <= set(re.findall(r"latentrt (\S+)", text))
    assert text.count("Usage: latentrt ") == len(COMMANDS)


def test_every_page_is_in_the_navigation(out):
    listed = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {page.name for page in out.glob("*.md")}
