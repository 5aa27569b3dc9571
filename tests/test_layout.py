"""The four roots of the checkout are four packages, and their layers point one way: calib, export, runtime.

The server stands on the runtime alone, and nothing stands on it.

What tests share lies in plain modules: a test module is imported by pytest alone.
"""

import ast
import importlib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
LAYERS = {"runtime": "latentrt", "export": "latentrt_export", "calib": "latentrt_calib", "serve": "latentrt_serve"}
SOURCES = [path.relative_to(CHECKOUT) for home in LAYERS for path in sorted((CHECKOUT / home).rglob("*.py"))]


def module_name(source: Path) -> str:
    _root, *parts = source.with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imported(source: Path) -> set[str]:
    """Every module that the file names in an import; `from a import b` gives a and a.b."""
    tree = ast.parse((CHECKOUT / source).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{source}:{node.lineno}: a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


# Triton alone has the module that this one imports; it is run in Triton (benchmarks/serve_triton.py).
IN_TRITON = Path("serve/latentrt_serve/triton/model.py")
IMPORTABLE = [source for source in SOURCES if source.parts[0] != "runtime" and source != IN_TRITON]


@pytest.mark.parametrize("source", IMPORTABLE, ids=str)
def test_every_source_file_imports_under_its_installed_name(source: Path) -> None:
    module = importlib.import_module(module_name(source))
    assert module.__file__ is not None
    assert Path(module.__file__) == CHECKOUT / source


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_layers_point_one_way(source: Path) -> None:
    roots = list(LAYERS)
    above = [LAYERS[root] for root in roots[roots.index(source.parts[0]) + 1 :]]
    assert not [name for name in imported(source) if name.partition(".")[0] in above]


@pytest.mark.parametrize("home", ["tests", "benchmarks", "examples", "emoji"])
def test_no_file_imports_a_test_module(home: str) -> None:
    sources = [path.relative_to(CHECKOUT) for path in sorted((CHECKOUT / home).rglob("*.py"))]
    assert sources
    found = {str(source): [name for name in imported(source) if is_test_module(name)] for source in sources}
    assert not {source: names for source, names in found.items() if names}


def is_test_module(name: str) -> bool:
    return name.rpartition(".")[2].startswith("test_")
