"""Rooms have a face: code imports of another room only what its `__all__` lists; all else is private to the room."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
ROOTS = {"runtime": "latentrt", "export": "latentrt_export", "calib": "latentrt_calib", "serve": "latentrt_serve"}
SOURCES = [path for root in ROOTS for path in sorted((CHECKOUT / root).rglob("*.py"))]


def name_of(path: Path) -> str:
    _root, *parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


ROOMS = {name_of(path) for path in SOURCES if path.name == "__init__.py"} - set(ROOTS.values())


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every module that the file imports from, and the name that it takes, None for a whole module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def taken(path: Path) -> Iterator[tuple[str, str]]:
    """The rooms that the file reaches into from outside, and the name in each that it goes through."""
    for module, name in imports(path):
        parts = [*module.split("."), *([name] if name else [])]
        for length in range(2, len(parts)):
            room = ".".join(parts[:length])
            if room in ROOMS and not f"{name_of(path)}.".startswith(f"{room}."):
                yield room, parts[length]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_room_lists_its_face_and_says_what_it_is_for(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__doc__ and len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name) or importlib.util.find_spec(f"{room}.{name}"), f"{room} has no {name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_private_is_imported_from_outside(path: Path) -> None:
    private = [f"{room}: {name}" for room, name in taken(path) if name not in importlib.import_module(room).__all__]
    assert not private
