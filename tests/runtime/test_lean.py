"""What running needs and what it must not: these tests pass where torch is not installed."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import latentrt
from latentrt import errors
from tests.runtime.modules import MODULES

# RuntimeError, so that no `except ImportError` hides an attempt.
GENERATE_WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "transformers", "onnx"):
            raise RuntimeError(f"{name} is imported at run time")

sys.meta_path.insert(0, Refuse())
import latentrt
result = latentrt.load("emoji").generate("a red apple", steps=1)
assert result.images[0].size == (128, 128)
"""

IMPORT_ONLY = "import sys, latentrt; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_image_needs_neither_torch_nor_onnx() -> None:
    run(GENERATE_WITHOUT)


def test_the_import_alone_needs_nothing() -> None:
    loaded = set(run(IMPORT_ONLY).split())
    assert "latentrt" in loaded
    assert not loaded & {"numpy", "PIL", "onnxruntime", "tokenizers", "click", "rich"}


@pytest.mark.parametrize("name", MODULES)
def test_every_source_file_imports_under_its_installed_name(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_every_public_name_resolves() -> None:
    assert [getattr(latentrt, name).__name__ for name in latentrt.__all__] == latentrt.__all__
    assert latentrt.__all__ == sorted(set(latentrt.__all__))
    assert dir(latentrt) == latentrt.__all__


def test_checkers_and_python_see_the_same_names() -> None:
    tree = ast.parse(Path(latentrt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(latentrt.__all__)


def test_every_error_is_public() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert tree <= set(latentrt.__all__)
    assert all(issubclass(getattr(errors, name), latentrt.LatentError) for name in tree)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'latentrt' has no attribute 'laod'"):
        latentrt.laod  # noqa: B018
