from fractions import Fraction

import numpy as np
import pytest

from latentrt.errors import EngineError, ShapeError
from latentrt.tensors import Array, TensorSpec, check, is_constant, read_only, shape_of, split_axis, symbols_of

LATENTS = TensorSpec("latents", "float32", ("batch", 4, "height", "width"))
IMAGE = TensorSpec("image", "float32", ("batch", 3, "8*height", "8*width"))


def zeros(*shape: int, dtype: str = "float32") -> Array:
    return np.zeros(shape, dtype)


def refusal(specs: tuple[TensorSpec, ...], **tensors: Array) -> str:
    with pytest.raises(ShapeError) as caught:
        check(specs, tensors, "unet")
    return str(caught.value)


def test_a_spec_reads_as_it_is_written_in_messages() -> None:
    assert str(IMAGE) == "image float32 (batch, 3, 8*height, 8*width)"


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (3, 8, 24), (2, 96, 64)])
def test_symbols_are_bound_across_tensors(batch: int, height: int, width: int) -> None:
    tensors = {"latents": zeros(batch, 4, height, width), "image": zeros(batch, 3, 8 * height, 8 * width)}
    expected = {"batch": batch, "height": height, "width": width}
    assert check((LATENTS, IMAGE), tensors, "unet") == expected
    assert check((IMAGE, LATENTS), tensors, "unet") == expected


def test_no_tensors_bind_nothing() -> None:
    assert check((), {}, "unet") == {}


def test_a_scalar() -> None:
    assert check((TensorSpec("t", "int64", ()),), {"t": np.array(3)}, "unet") == {}


REFUSED = [
    (zeros(1, 4, 8, 8, dtype="float64"), "got latents float64 (1, 4, 8, 8), expected latents float32 (batch"),
    (zeros(1, 4, 8, 8, dtype="float16"), "got latents float16 (1, 4, 8, 8), expected latents float32 (batch"),
    (zeros(1, 4, 8, 8, dtype=">f4"), "got latents >f4 (1, 4, 8, 8), expected latents float32 (batch"),
    (zeros(4, 8, 8), "got latents float32 (4, 8, 8), expected latents float32 (batch, 4, height, width)"),
    (zeros(1, 1, 4, 8, 8), "got latents float32 (1, 1, 4, 8, 8), expected latents float32 (batch, 4, height, width)"),
    (zeros(1, 3, 8, 8), "got latents float32 (1, 3, 8, 8), expected latents float32 (batch, 4, height, width)"),
    (zeros(0, 4, 8, 8), "got latents float32 (0, 4, 8, 8), expected latents float32 (batch, 4, height, width)"),
    (zeros(1, 4, 8, 0), "got latents float32 (1, 4, 8, 0), expected latents float32 (batch, 4, height, width)"),
]


@pytest.mark.parametrize(("tensor", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_tensor_that_does_not_fit(tensor: Array, message: str) -> None:
    assert refusal((LATENTS,), latents=tensor).startswith(f"unet: {message}")


def test_a_symbol_is_one_number_in_one_tensor() -> None:
    square = TensorSpec("square", "float32", ("side", "side"))
    assert check((square,), {"square": zeros(3, 3)}, "unet") == {"side": 3}
    assert refusal((square,), square=zeros(3, 4)) == (
        "unet: got square float32 (3, 4), expected square float32 (side, side) with side = 3"
    )


def test_a_symbol_is_one_number_in_all_tensors() -> None:
    message = refusal((LATENTS, IMAGE), latents=zeros(2, 4, 8, 8), image=zeros(3, 3, 64, 64))
    assert message == (
        "unet: got image float32 (3, 3, 64, 64), expected image float32 (batch, 3, 8*height, 8*width) "
        "with batch = 2, height = 8, width = 8"
    )


@pytest.mark.parametrize("width", [7, 63, 65, 0])
def test_a_side_that_is_no_multiple(width: int) -> None:
    message = refusal((IMAGE,), image=zeros(1, 3, 64, width))
    assert message.startswith(f"unet: got image float32 (1, 3, 64, {width}), expected image float32 (batch, 3, 8*")


def test_a_multiple_that_disagrees() -> None:
    assert "with batch = 1, height = 8" in refusal(
        (LATENTS, IMAGE), latents=zeros(1, 4, 8, 8), image=zeros(1, 3, 72, 64)
    )


QUARTER = TensorSpec("quarter", "float32", ("batch", 4, "height/4", "width/4"))


@pytest.mark.parametrize(("side", "part"), [(8, 2), (9, 3), (1, 1), (12, 3)])
def test_a_part_of_a_side_is_rounded_up(side: int, part: int) -> None:
    tensors = {"latents": zeros(1, 4, side, 8), "quarter": zeros(1, 4, part, 2)}
    assert check((LATENTS, QUARTER), tensors, "unet") == {"batch": 1, "height": side, "width": 8}
    assert shape_of(QUARTER, {"batch": 1, "height": side, "width": 8}) == (1, 4, part, 2)
    assert "quarter float32 (1, 4, 7, 2)" in refusal(
        (LATENTS, QUARTER), latents=zeros(1, 4, side, 8), quarter=zeros(1, 4, 7, 2)
    )


def test_a_part_alone_does_not_say_what_it_is_of() -> None:
    assert "expected quarter" in refusal((QUARTER,), quarter=zeros(1, 4, 2, 2))


def test_a_missing_and_an_extra_tensor() -> None:
    expected = "unet: got tensors ['latents'], expected ['image', 'latents']"
    assert refusal((LATENTS, IMAGE), latents=zeros(1, 4, 8, 8)) == expected
    expected = "unet: got tensors ['latents', 'noise'], expected ['latents']"
    assert refusal((LATENTS,), latents=zeros(1, 4, 8, 8), noise=zeros(1)) == expected


def test_a_shape_error_is_an_engine_error_and_a_value_error() -> None:
    assert issubclass(ShapeError, EngineError)
    assert issubclass(ShapeError, ValueError)


@pytest.mark.parametrize(
    ("axis", "parts"),
    [("height", (1, "height")), ("8*height", (8, "height")), ("16*w_a", (16, "w_a")), ("w/4", (Fraction(1, 4), "w"))],
)
def test_split_axis(axis: str, parts: tuple[int, str]) -> None:
    assert split_axis(axis) == parts


@pytest.mark.parametrize(
    "axis",
    ["", "8", "8*", "*height", "0*height", "08*height", "height*8", "8 * height", "-8*h", "8*8*h", "h/", "h/0", "/2"],
)
def test_axes_that_are_none(axis: str) -> None:
    with pytest.raises(ValueError, match="neither a number, a name, nor number"):
        split_axis(axis)


def test_symbols_of_a_shape() -> None:
    spec = TensorSpec("x", "float32", ("batch", 4, "8*height", "width/2"))
    assert symbols_of(spec) == {"batch", "height", "width"}
    assert symbols_of(TensorSpec("t", "int64", ())) == set()


def test_tensors_that_cannot_change() -> None:
    array = zeros(2, 3)
    assert not is_constant(array)
    assert is_constant(read_only(array))
    assert not is_constant(array[:1])  # another view of the array may have been taken before
