"""Every example runs as a reader would run it, and leaves the picture it promises."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_draws_a_picture(example, tmp_path):
    subprocess.run([sys.executable, example, tmp_path], check=True)
    (picture,) = tmp_path.iterdir()
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100
