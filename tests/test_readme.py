"""The README's Python runs as printed, links lead to files and headings, and generated pages are up to date."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "emoji").glob("*.md"))]
CODE = re.compile(r"^```.*?^```", re.S | re.M)


def test_python_in_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple.png", "preview.png"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text()))
    assert [link for link in links if not link.startswith("http") and not leads_somewhere(page, link)] == []


def leads_somewhere(page, link):
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in anchors(target))


def anchors(page):
    """Anchors that GitHub makes of the headings: lower case, without punctuation, a hyphen per space."""
    titles = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_scripts_that_are_named_exist(page):
    text = page.read_text()
    named = re.findall(r"`((?:tests|runtime|export|calib|benchmarks|examples|emoji)/[\w/.\-]+)`", text)
    named += re.findall(r"python ((?:examples|docs)/\w+\.py)", text)
    named += [name.replace(".", "/") + ".py" for name in re.findall(r"python -m ((?:benchmarks|emoji)[.\w]+\w)", text)]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_options_md_is_what_the_script_makes():
    script = ROOT / "docs" / "make_options.py"
    made = runpy.run_path(str(script))["page"]()
    assert made == (ROOT / "docs" / "options.md").read_text(), "run python docs/make_options.py"
