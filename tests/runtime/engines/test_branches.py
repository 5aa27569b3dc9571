"""Branches of graphs, against products in NumPy: graphs are written here by the format's own definition."""

import numpy as np
import pytest

from latentrt.engines.onnx import protobuf as pb
from latentrt.engines.onnx.branches import Branch, factors_of, with_branches
from latentrt.engines.onnx.session import new_session
from latentrt.errors import BundleError

WIDE, NARROW, OUT, BLOCK = 64, 3, 160, 32
INT8, INT4, INT = 3, 22, 2
RANDOM = np.random.default_rng(0)
WHOLE = RANDOM.integers(-8, 8, (WIDE, OUT))
SCALES = RANDOM.random((WIDE // BLOCK, OUT)).astype(np.float32)
WEIGHT = WHOLE * np.repeat(SCALES, BLOCK, 0)
X = RANDOM.standard_normal((2, 5, WIDE)).astype(np.float32)


def message(*parts):
    return b"".join(
        pb.number_field(number, part) if isinstance(part, int) else pb.bytes_field(number, part)
        for number, part in parts
    )


def tensor(name, dims, kind, data, outside=None):
    shape = [(pb.DIMS, side) for side in dims]
    if outside is None:
        return message(*shape, (pb.DATA_TYPE, kind), (pb.NAME, name), (pb.RAW_DATA, data))
    outside.write_bytes(data)
    where = (pb.EXTERNAL_DATA, message((pb.KEY, "location"), (pb.VALUE, outside.name)))
    return message(*shape, (pb.DATA_TYPE, kind), (pb.NAME, name), where, (pb.DATA_LOCATION, pb.EXTERNAL))


def node(operator, inputs, output, **numbers):
    attributes = [(5, message((1, name), (3, value), (20, INT))) for name, value in numbers.items()]
    named = [(pb.NODE_INPUT, name) for name in inputs]
    return message(*named, (pb.NODE_OUTPUT, output), (pb.OP_TYPE, operator), *attributes)


def value(name, *sides):
    shape = message(*((1, message((2, side) if isinstance(side, str) else (1, side))) for side in sides))
    return message((1, name), (2, message((1, message((1, pb.FLOAT), (2, shape))))))


def graph(outside=None):
    """y = x W, with W in 4 bits, whose integers lie in the file `outside`, if there is one."""
    halves = (WHOLE.reshape(-1, 2) & 15).astype(np.uint8)
    integers = tensor("w.quantized", WHOLE.shape, INT4, (halves[:, 0] | halves[:, 1] << 4).tobytes(), outside)
    parts = (
        (pb.NODE, node("DequantizeLinear", ["w.quantized", "w.scale"], "w", axis=0, block_size=BLOCK)),
        (pb.NODE, node("MatMul", ["x", "w"], "y")),
        (2, "graph"),
        (pb.INITIALIZER, integers),
        (pb.INITIALIZER, tensor("w.scale", SCALES.shape, pb.FLOAT, SCALES.tobytes())),
        (11, value("x", "batch", "tokens", WIDE)),
        (12, value("y", "batch", "tokens", OUT)),
    )
    return message((1, 10), (8, message((2, 21))), (pb.GRAPH, message(*parts)))


def random(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def run(path, branches):
    return new_session(path, branches=branches).run(None, {"x": X})[0]


@pytest.mark.parametrize("beside", [False, True])
def test_it_computes_the_sum(tmp_path, beside):
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph(tmp_path / "graph.data" if beside else None))
    first, second, whole = random(WIDE, NARROW), random(NARROW, OUT), random(WIDE, OUT)
    wanted = {
        "": (WEIGHT, {}),
        "beside the product": (WEIGHT + first @ second, {"y": Branch((first, second))}),
        "on the weight": (WEIGHT + whole, {"w": Branch((whole,))}),
        "both": (WEIGHT + whole + first @ second, {"w": Branch((whole,)), "y": Branch((first, second))}),
    }
    for name, (weight, branches) in wanted.items():
        expected = X.astype(np.float64) @ weight
        assert np.abs(run(path, branches) - expected).max() < 1e-5 * np.abs(expected).max(), name
    plain = run(path, {})
    assert np.array_equal(run(path, {"y": Branch((first * 0, second))}), plain)


def test_all_else_is_as_before():
    content = graph()
    assert with_branches(content, {}) == content
    changed = with_branches(content, {"y": Branch((random(WIDE, NARROW), random(NARROW, OUT)))})
    [(start, end)] = [(a, b) for number, _, a, b in pb.fields(changed, 0, len(changed)) if number == pb.GRAPH]
    nodes = [(a, b) for number, _, a, b in pb.fields(changed, start, end) if number == pb.NODE]
    outputs = [pb.texts(changed, a, b, pb.NODE_OUTPUT) for a, b in nodes]
    assert outputs == [["w"], ["y.plain"], ["y.narrow"], ["y.wide"], ["y"]]


def test_factors_have_names_of_their_own():
    one, other = random(WIDE, NARROW), random(NARROW, OUT)
    assert factors_of({"y": Branch((one, other))}) == {"y.factor.0": one, "y.factor.1": other}


@pytest.mark.parametrize("content", [b"\x3a\x7f", b"\xff" * 30, graph()[:-7]], ids=["short", "no numbers", "cut"])
def test_a_damaged_file_is_one_error(content):
    with pytest.raises(BundleError, match="not an ONNX graph|has no y"):
        with_branches(content, {"y": Branch((random(WIDE, OUT),))})


def test_a_value_that_is_not_there_is_named():
    with pytest.raises(BundleError, match="has no z, beside which a LoRA stands"):
        with_branches(graph(), {"z": Branch((random(WIDE, OUT),))})


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 35])
def test_numbers_are_read_as_they_are_written(number):
    written = pb.number_field(5, number)
    assert list(pb.fields(written, 0, len(written))) == [(5, number, len(written), len(written))]
