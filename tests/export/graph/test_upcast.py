"""Attention whose scores leave fp16's range, as Stable Diffusion 2.1's do: in float32 where the config asks for it."""

import onnx_ir as ir
import pytest
import torch

from latentrt.engines.nvidia.plans import Shapes
from latentrt_export.build.builders import open_builder
from latentrt_export.build.plan import BuilderSettings, BuildTask, write_plan
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.graph.precision import PRECISIONS
from latentrt_export.graph.trace import trace
from latentrt_export.lower.half import half
from latentrt_export.networks.hoist import attend
from tests.export.tiny_families import SD2_UNET, module_of

LARGE = 1024.0


def operands(dtype):
    """Queries and keys whose scores are over a million, the last key's highest, and values."""
    query = torch.full((1, 3, 64), LARGE)
    key = torch.full((1, 5, 64), LARGE)
    key[:, -1] += 1
    value = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    return [x.to(dtype) for x in (query, key, value)]


def test_scores_out_of_range():
    expected = attend(*operands(torch.float32), 8)
    got = attend(*operands(torch.float16), 8, upcast=True)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), expected, atol=1e-3, rtol=1e-3)
    assert not attend(*operands(torch.float16), 8).isfinite().all()


def part_of(upcast):
    *_, part = unet_parts(module_of("unet", {**SD2_UNET, "upcast_attention": upcast}))
    return part


@pytest.fixture(scope="module", params=[True, False], ids=["upcast", "plain"])
def graph(request):
    """The fp16 graph of a UNet, and whether its config asks for float32."""
    part = part_of(request.param)
    recipe = PRECISIONS["fp16"]
    specs = [[recipe.spec(spec) for spec in side] for side in (part.inputs, part.outputs)]
    with torch.no_grad():
        return trace(recipe.module(part.build()), *specs), request.param


def softmax_types(model):
    return {node.inputs[0].dtype for node in model.graph if node.op_type == "Softmax"}


def test_graph_and_what_it_is_lowered_to_keep_float32(graph, tmp_path):
    model, upcast = graph
    expected = {ir.DataType.FLOAT if upcast else ir.DataType.FLOAT16}
    assert softmax_types(model) == expected
    assert softmax_types(half(model)) == expected
    assert {value.dtype for value in model.graph.outputs} == {ir.DataType.FLOAT16}
    assert not upcast or plan_of(model, tmp_path).stat().st_size > 0


def plan_of(model, folder):
    """The plan that NVIDIA's TensorRT-RTX builds for SM86."""
    ir.save(model, folder / "unet.onnx")
    sides = {"batch": 2, "height": 7, "width": 10, "tokens": 32}
    shapes = {value.name: [sides.get(str(axis), axis) for axis in value.shape] for value in model.graph.inputs}
    profile = tuple(Shapes(name, *[tuple(shape)] * 3) for name, shape in shapes.items())
    task = BuildTask("unet", folder / "unet.onnx", (profile,), ("sm86",), BuilderSettings(), folder / "timing.cache")
    write_plan(open_builder("tensorrt-rtx"), task, folder / "unet.plan")
    return folder / "unet.plan"
