"""The reader of ONNX graphs finds the weights that the onnx package finds, and the runtime can exchange them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from latentrt.bundle.catalog import MODELS
from latentrt.engines.onnx.initializers import Override, external_overrides, patched_graph
from latentrt.errors import BundleError
from latentrt_export.lora_table.initializers import initializers_of

GRAPH = MODELS / "emoji" / "unet.onnx"


def of_package(model):
    """What the package reads: every array of floats, by name, and how many inputs read each."""
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    reads = [name for node in model.graph.node for name in node.input]
    return {
        name: (array, reads.count(name)) for name, array in arrays.items() if array.ndim and array.dtype.kind == "f"
    }


def overrides_of(graph, arrays):
    """The arrays as overrides of a graph's initialisers."""
    known = initializers_of(graph)
    return {name: Override(array, known[name]) for name, array in arrays.items()}


def check(found, expected):
    assert found.keys() == expected.keys()
    for name, (array, uses) in expected.items():
        np.testing.assert_array_equal(found[name].read(), array, strict=True)
        assert found[name].uses == uses


def test_every_weight_in_a_graph_and_beside_it(tmp_path):
    expected = of_package(onnx.load(GRAPH))
    check(initializers_of(GRAPH), expected)
    beside = tmp_path / "beside.onnx"
    onnx.save(onnx.load(GRAPH), beside, save_as_external_data=True, location="beside.data", size_threshold=0)
    check(initializers_of(beside), expected)
    arrays = {name: array for name, (array, _) in expected.items()}
    assert patched_graph(beside, overrides_of(beside, arrays)) is None
    assert external_overrides(beside, overrides_of(beside, arrays)) == arrays
    assert external_overrides(GRAPH, overrides_of(GRAPH, arrays)) == {}


def test_weights_are_exchanged_and_nothing_else_is(tmp_path):
    model = onnx.load(GRAPH)
    expected = of_package(model)
    names = list(expected)[3:40:9]
    changed = {name: expected[name][0] * np.float16(2) for name in names}
    content = patched_graph(GRAPH, overrides_of(GRAPH, changed))
    for one in model.graph.initializer:
        if one.name in changed:
            one.raw_data = changed[one.name].tobytes()
    assert onnx.load_from_string(content) == model


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\xff\x01", b"{}", b"\x3b\x00" * 40], ids=repr)
def test_what_is_no_graph_is_one_error(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"x\.onnx: got a file that is not an ONNX graph"):
        initializers_of(tmp_path / "x.onnx")
