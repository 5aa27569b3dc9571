"""The folders of the checkout are one package, and its layers point one way: calib, export, runtime.

What tests share lies in plain modules: a test module is imported by pytest alone.
"""

import ast
import importlib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
HOMES = {"runtime": "latentrt", "export": "latentrt.export", "calib": "latentrt.calib"}
LAYERS = ("runtime", "export", "calib")
SOURCES = [path.relative_to(CHECKOUT) for home in HOMES for path in sorted((CHECKOUT / home).rglob("*.py"))]


def module_name(source: Path) -> str:
    home, *parts = source.with_suffix("").parts
    return ".".join([HOMES[home], *parts]).removesuffix(".__init__")


def imported(source: Path) -> set[str]:
    """Every module that the file names in an import; `from a import b` gives a and a.b.

    The command line is the one part of the runtime that may ask for another layer, inside the command that needs it.
    """
    tree = ast.parse((CHECKOUT / source).read_text(encoding="utf-8"))
    names = set()
    for node in tree.body if source.is_relative_to("runtime/cli") else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{source}:{node.lineno}: a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("source", [source for source in SOURCES if source.parts[0] != "runtime"], ids=str)
def test_every_source_file_imports_under_its_installed_name(source: Path) -> None:
    module = importlib.import_module(module_name(source))
    assert module.__file__ is not None
    assert Path(module.__file__) == CHECKOUT / source


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_layers_point_one_way(source: Path) -> None:
    above = LAYERS[LAYERS.index(source.parts[0]) + 1 :]
    assert not [name for name in imported(source) for layer in above if f"{name}.".startswith(f"{HOMES[layer]}.")]


@pytest.mark.parametrize("home", ["tests", "benchmarks", "examples"])
def test_no_file_imports_a_test_module(home: str) -> None:
    sources = [path.relative_to(CHECKOUT) for path in sorted((CHECKOUT / home).rglob("*.py"))]
    assert sources
    found = {str(source): [name for name in imported(source) if is_test_module(name)] for source in sources}
    assert not {source: names for source, names in found.items() if names}


def is_test_module(name: str) -> bool:
    return name.rpartition(".")[2].startswith("test_")
