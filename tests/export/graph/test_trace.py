"""Tracing leaves out torch's own inference of shapes, which would change nothing in a graph."""

from contextlib import nullcontext

import onnx_ir as ir
import pytest

from latentrt.tensors import TensorSpec
from latentrt_export.graph import trace as tracing
from latentrt_export.networks.autoencoder import VaeDecoder
from latentrt_export.networks.text_encoder import TextEncoder
from tests.export import tiny

IMAGE = TensorSpec("image", "float32", ("batch", 3, "8*height", "8*width"))
WIDTH = tiny.build_text_encoder().config.hidden_size
CASES = {
    "decoder": (
        lambda: VaeDecoder(tiny.build_vae()),
        [TensorSpec("latents", "float32", ("batch", 4, "height", "width"))],
        IMAGE,
    ),
    "text encoder": (
        lambda: TextEncoder(tiny.build_text_encoder()),
        [TensorSpec("input_ids", "int64", ("batch", 32)), TensorSpec("clip_skip", "int64", (1,))],
        TensorSpec("context", "float32", ("batch", 32, WIDTH)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_torchs_own_inference_of_shapes_changes_nothing(name, monkeypatch):
    build, inputs, output = CASES[name]
    without = tracing.trace(build(), inputs, [output])
    monkeypatch.setattr(tracing, "without_inference", nullcontext)
    made = tracing.trace(build(), inputs, [output])
    assert ir.to_proto(without).SerializeToString() == ir.to_proto(made).SerializeToString()
