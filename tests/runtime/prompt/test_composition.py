import pytest

from latentrt.errors import RequestError
from latentrt.prompt import composed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("", 1)]),
        ("a", [("a", 1)]),
        ("a AND b", [("a", 1), (" b", 1)]),
        ("a AND b AND c", [("a", 1), (" b", 1), (" c", 1)]),
        ("a :0.5 AND b :2", [("a", 0.5), (" b", 2)]),
        ("a:0.5 AND b", [("a", 0.5), (" b", 1)]),
        ("a : .5", [("a", 0.5)]),
        ("a :1.", [("a", 1)]),
        ("a :-1 AND b :+2", [("a", -1), (" b", 2)]),
        ("a :0.5 \n", [("a", 0.5)]),
        ("a :1e2", [("a :1e2", 1)]),
        ("a :1.2.3", [("a :1.2.3", 1)]),
        ("a :x", [("a :x", 1)]),
        ("a :1:2", [("a :1", 2)]),
        ("ratio 16:9", [("ratio 16", 9)]),
        ("(a:1.2)", [("(a:1.2)", 1)]),
        ("[a:b:3]", [("[a:b:3]", 1)]),
        ("a and b", [("a and b", 1)]),
        ("aANDb", [("aANDb", 1)]),
        ("a_AND", [("a_AND", 1)]),
        ("a,AND,b", [("a,", 1), (",b", 1)]),
        ("AND", [("", 1), ("", 1)]),
        ("AND a", [("", 1), (" a", 1)]),
        ("a AND", [("a", 1), ("", 1)]),
        (":2 AND :3", [("", 2), ("", 3)]),
        ("(a AND b)", [("(a", 1), (" b)", 1)]),
        ("a\nb :2", [("a\nb", 2)]),
        ("  a  ", [("  a", 1)]),
    ],
)
def test_prompts_between_ands(text: str, expected: list[tuple[str, float]]) -> None:
    assert composed(text) == expected


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RequestError, match="after AND is not finite"):
        composed(f"a AND b :{'9' * 400}")
