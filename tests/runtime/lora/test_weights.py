"""Weights with LoRA files in them, without a model: what the type of a graph cannot hold."""

from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.onnx.initializers import Initializer
from latentrt.errors import CheckpointError
from latentrt.lora.places import Place
from latentrt.lora.weights import ChangedWeight


class Doubled:
    """A change that makes twice the weight of one."""

    file, layer = Path("a.safetensors"), "conv_in"

    def apply(self, weight):
        return weight * np.float32(2)


def changed(folder, dtype, largest):
    file = folder / "weights"
    np.array([[1, 2, 3], [4, 5, largest]], dtype).tofile(file)
    one = Initializer((2, 3), dtype, file, 0)
    return ChangedWeight([(Place("unet", "conv_in.weight.2x3", one, True, slice(0, 3), (3, 2)), Doubled())])


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_a_weight_keeps_its_type_and_its_axes(tmp_path, dtype):
    read = changed(tmp_path, dtype, 6).read()
    np.testing.assert_array_equal(read, np.array([[2, 4, 6], [8, 10, 12]], dtype), strict=True)


def test_a_weight_that_fp16_cannot_hold_is_an_error(tmp_path):
    assert changed(tmp_path, "<f4", 4e4).read()[1, 2] == 8e4
    with pytest.raises(CheckpointError, match=r"a.safetensors: conv_in makes weights that fp16 cannot hold"):
        changed(tmp_path, "<f2", 4e4).read()
