"""Every example runs from its first line to its last and leaves the picture it promises, of two steps each."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from latentrt.pipeline.pipeline import Pipeline
from tests.sweep import rest_swept

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Takes the two steps that show as much here; of a part of the steps, such as 2 % of 50, what is asked for."""
    steps = Pipeline.steps

    def fewer(pipeline, request):
        whole = request.strength in (None, 1.0)
        return steps(pipeline, replace(request, steps=2) if whole else request)

    monkeypatch.setattr(Pipeline, "steps", fewer)


@pytest.mark.parametrize("example", rest_swept(EXAMPLES, EXAMPLES[:2]), ids=lambda path: path.stem)
def test_example_draws_a_picture(example, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path)])
    monkeypatch.syspath_prepend(example.parent)
    runpy.run_path(str(example), run_name="__main__")
    (picture,) = tmp_path.iterdir()
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100
