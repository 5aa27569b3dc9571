"""The notebook of examples/ runs from its first cell to its last, and is kept without what a run leaves in it."""

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

from latentrt.pipeline.load import load
from tests.sweep import sweep

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_it_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code and [cell.source for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert [cell.source for cell in cells if set(cell.metadata) - {"tags"}] == []


@sweep
def test_every_cell_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [picture for cell in notebook.cells for picture in pictures_of(cell)]
    assert [picture.size for picture in pictures] == [(128, 128), (768, 96), (128, 128), (384, 128), (128, 128)]
    with load("emoji", engine="cpu") as pipe:
        (expected,) = pipe.generate("a red apple", steps=20, seed=7).images
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(expected))
    assert notebook.cells[-2].outputs[0].data["text/plain"].startswith("'a red apple")


def pictures_of(cell):
    """The pictures that a cell shows."""
    shown = (one.data for one in cell.get("outputs", []) if "data" in one)
    return [Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) for data in shown if "image/png" in data]
