from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from latentrt.storage.json_codec import TypedError, parse


@dataclass(frozen=True)
class Leg:
    length: float
    side: Literal["left", "right"]


@dataclass(frozen=True)
class Animal:
    name: str
    legs: tuple[Leg, ...]
    size: tuple[int, int]
    notes: Mapping[str, int | str]
    tame: bool
    age: int | None = None


DOG: dict[str, Any] = {
    "name": "Rex",
    "legs": [{"length": 1, "side": "left"}, {"length": 0.5, "side": "right"}],
    "size": [3, 4],
    "notes": {"a": 1, "b": "two"},
    "tame": True,
    "age": None,
}


def test_a_document_becomes_dataclasses() -> None:
    dog = parse(Animal, DOG)
    assert dog == Animal("Rex", (Leg(1.0, "left"), Leg(0.5, "right")), (3, 4), {"a": 1, "b": "two"}, True, None)
    assert type(dog.legs[0].length) is float


def test_a_key_with_a_default_may_be_missing() -> None:
    assert parse(Animal, {key: value for key, value in DOG.items() if key != "age"}).age is None
    assert parse(Animal, DOG | {"age": 3}).age == 3


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": 5}, "dog.name: got 5, expected a string"),
    ({"name": None}, "dog.name: got None, expected a string"),
    ({"tame": 1}, "dog.tame: got 1, expected true or false"),
    ({"tame": "yes"}, "dog.tame: got 'yes', expected true or false"),
    ({"age": True}, "dog.age: got True, expected an integer"),
    ({"age": 3.0}, "dog.age: got 3.0, expected an integer"),
    ({"size": [3]}, "dog.size: got 1 items, expected 2"),
    ({"size": [3, 4, 5]}, "dog.size: got 3 items, expected 2"),
    ({"size": [3, False]}, "dog.size[1]: got False, expected an integer"),
    ({"size": {"0": 3}}, "dog.size: got {'0': 3}, expected an array"),
    ({"legs": "left"}, "dog.legs: got 'left', expected an array"),
    ({"legs": [[]]}, "dog.legs[0]: got [], expected an object"),
    ({"legs": [{"side": "left"}]}, "dog.legs[0].length: missing"),
    ({"legs": [DOG["legs"][0], {"length": 1, "side": "top"}]}, "dog.legs[1].side: got 'top', expected one of"),
    ({"legs": [{"length": 1, "side": []}]}, "dog.legs[0].side: got [], expected one of 'left', 'right'"),
    ({"legs": [{"length": True, "side": "left"}]}, "dog.legs[0].length: got True, expected a finite number"),
    ({"legs": [{"length": float("nan"), "side": "left"}]}, "dog.legs[0].length: got nan, expected a finite number"),
    ({"legs": [{"length": float("inf"), "side": "left"}]}, "dog.legs[0].length: got inf, expected a finite number"),
    ({"legs": [{"length": 10**400, "side": "left"}]}, "dog.legs[0].length: got 1000"),
    ({"notes": {"c": 1.5}}, "dog.notes.c: got 1.5, expected int or str"),
    ({"notes": {"c": True}}, "dog.notes.c: got True, expected an integer"),
    ({"notes": []}, "dog.notes: got [], expected an object"),
    ({"wings": 2, "fins": 1}, "dog.fins: unknown key; expected name, legs, size, notes, tame, age"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda item: item if isinstance(item, str) else "")
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypedError) as caught:
        parse(Animal, DOG | change, "dog")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [[], "Rex", None, 5])
def test_the_top_has_a_name_too(value: object) -> None:
    with pytest.raises(TypedError, match="^top level: got .*, expected an object$"):
        parse(Animal, value)


def test_messages_are_short() -> None:
    for change in (
        {"age": "x" * 10**6},
        {"notes": {"c": ["x" * 10**6]}},
        {"legs": [{"length": 1, "side": "x" * 10**6}]},
    ):
        with pytest.raises(TypedError) as caught:
            parse(Animal, DOG | change)
        assert len(str(caught.value)) < 200
