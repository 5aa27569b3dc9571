"""Decoders in stripes: the same pictures at every size, and nothing as high as the picture on the way."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime import InferenceSession, SessionOptions

from latentrt.bundle.catalog import MODELS
from latentrt_export.fidelity import loss
from latentrt_export.lower.stripes import in_stripes

DECODER = MODELS / "emoji" / "vae_decoder.onnx"


def session(model: ir.Model) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(ir.to_proto(model).SerializeToString(), options)


@pytest.fixture(scope="module")
def sessions() -> Iterator[tuple[InferenceSession, InferenceSession]]:
    """The built-in decoder, plain and in stripes."""
    striped = ir.load(DECODER)
    assert in_stripes(striped) == 8
    return session(ir.load(DECODER)), session(striped)


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (3, 4, 16, 24), (1, 4, 1, 1), (1, 4, 1, 7), (2, 4, 5, 3)])
def test_pictures_are_those_of_the_plain_graph(sessions, shape: tuple[int, ...]) -> None:
    latents = 5 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected, got = (one.run(None, {"latents": latents})[0] for one in sessions)
    assert got.shape == expected.shape and loss(got, expected, "").psnr_db > 120


def test_nothing_on_the_way_is_as_high_as_the_picture() -> None:
    """A stripe has the latents' rows: with a neighbour's, twice as many where it is doubled."""
    model = ir.load(DECODER)
    in_stripes(model)
    names = [
        output.name for node in model.graph for output in node.outputs if node.op_type in ("Conv", "Resize", "Add")
    ]
    model.graph.outputs.extend(value for node in model.graph for value in node.outputs if value.name in names)
    latents = np.zeros((1, 4, 32, 8), np.float32)
    made = [one.shape[2] for one in session(model).run(names, {"latents": latents}) if one.ndim == 4]
    assert max(made) == 2 * (32 + 2)


SUMMED = """<ir_version: 10, opset_import: ["" : 18]>
summed (float[batch, 2, height, width] latents) => (float[batch, 2, rows, columns] image)
<int64[2] two = {2, 2}, int64[1] start = {0}, int64[1] end = {2}, int64[1] last = {4}, int64 axis = {2},
 float[2, 2, 3, 3] kernel = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
                             1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 0, 2}>
{
    shape = Shape (latents)
    before = Slice (shape, start, end)
    sides = Slice (shape, end, last)
    doubled = Mul (sides, two)
    sizes = Concat <axis = 0> (before, doubled)
    large = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
        (latents, , , sizes)
    first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (large, kernel)
    total = CumSum (first, axis)
    image = Add (first, total)
}"""


def test_what_cannot_be_cut_reads_all_stripes() -> None:
    plain, striped = (ir.from_onnx_text(SUMMED) for _ in range(2))
    assert in_stripes(striped) == 2
    latents = np.random.default_rng(0).standard_normal((2, 2, 3, 5)).astype(np.float32)
    expected, got = (session(one).run(None, {"latents": latents})[0] for one in (plain, striped))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_graphs_that_double_nothing_stay_as_they_are() -> None:
    model = ir.load(MODELS / "emoji" / "time_bias.onnx")
    before = [node.op_type for node in model.graph]
    assert in_stripes(model) == 0 and [node.op_type for node in model.graph] == before
