"""JSON to frozen dataclasses: an unknown key, a missing key or a wrong type is an error that names its place."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class TypedError(ValueError):
    """A value of the wrong type for its place in the document."""


def parse(kind: type[T], value: Any, where: str = "") -> T:
    """Returns `value`, the output of `json.loads`, converted to the type `kind`.

    kind: a dataclass, tuple, dict with str keys, Literal, optional, str, int, float or bool, nested to any depth.
    where: the place in the document, for messages. Raises TypedError with the place, the value and the expected type.
    """
    return _parse(kind, value, where)  # type: ignore[no-any-return]


def read_record(kind: type[T], path: Path) -> T | None:
    """The dataclass that a JSON file holds; None for a file that is missing, unreadable or damaged."""
    try:
        return parse(kind, json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def record_text(record: Any) -> str:
    """A dataclass, or a mapping of plain values, as the text of a JSON file."""
    fields = record if isinstance(record, Mapping) else dataclasses.asdict(record)
    return json.dumps(fields, indent=2) + "\n"


def plain(value: Any, omitted: Collection[str]) -> Any:
    """Returns a dataclass as plain dicts and lists for json.dumps: the inverse of `parse`.

    omitted: names of fields that are left out at their default, so that versions without them can read the rest.
    """
    if dataclasses.is_dataclass(value):
        fields = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            field.name: plain(item, omitted)
            for field, item in fields.items()
            if field.name not in omitted or item != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: plain(item, omitted) for key, item in value.items()}
    return [plain(item, omitted) for item in value] if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    """Default of a field; MISSING for a required one."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _parse(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, _expect(value, dict, where), where)
    if origin is tuple:
        return _parse_tuple(arguments, _expect(value, list, where), where)
    if origin in (dict, Mapping):
        items = _expect(value, dict, where).items()
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in items}
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise TypedError(f"{where}: got {_short(value)}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    return _expect(value, kind, where)


def _parse_fields(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    required = {field.name for field in dataclasses.fields(kind) if _default(field) is dataclasses.MISSING}
    for key in sorted(value.keys() - hints.keys()):
        raise TypedError(f"{where}.{key}: unknown key; expected {', '.join(hints)}")
    for key in sorted(required - value.keys()):
        raise TypedError(f"{where}.{key}: missing")
    return kind(**{key: _parse(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _parse_tuple(arguments: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        return tuple(_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise TypedError(f"{where}: got {len(value)} items, expected {len(arguments)}")
    return tuple(
        _parse(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _parse_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(None) in arguments:
        (kind,) = (kind for kind in arguments if kind is not type(None))
        return None if value is None else _parse(kind, value, where)
    for kind in arguments:
        if isinstance(value, kind):
            return _expect(value, kind, where)
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in arguments)
    raise TypedError(f"{where}: got {_short(value)}, expected {names}")


def _expect(value: Any, kind: type, where: str) -> Any:
    # JSON's true is an int to Python, and its 1e999 is infinity.
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise TypedError(f"{where or 'top level'}: got {_short(value)}, expected {_NAMES.get(kind, kind.__name__)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
}
