"""The TensorRT form parses and builds with NVIDIA's own builder, which needs no GPU to build for one."""

import numpy as np
import onnx_ir as ir
import pytest

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.engines.nvidia.plans import Shapes
from latentrt.errors import EngineError
from latentrt_calib.quantize import qdq
from latentrt_calib.quantize.split_concat import split_concatenations
from latentrt_export.build.builders import open_builder
from latentrt_export.build.plan import BuilderSettings, BuildTask, write_plan
from latentrt_export.graph.layers import layers_of
from tests.calib.toy_plans import plans_of, written
from tests.export import toy
from tests.sweep import sweep


def build(path, shapes, gpu):
    """The plan's size in bytes. Raises EngineError with what the parser or the builder says."""
    profile = tuple(Shapes(name, shape, shape, shape) for name, shape in shapes.items())
    plan = path.with_suffix(".plan")
    task = BuildTask(path.stem, path, (profile,), (gpu,), BuilderSettings(), path.with_suffix(".cache"))
    write_plan(open_builder("tensorrt-rtx"), task, plan)
    return plan.stat().st_size


@pytest.mark.parametrize("target", ["sm86", "sm89"])
@pytest.mark.parametrize("precision", toy.FLOATS)
def test_a_small_graph_builds(precision, target, tmp_path):
    model, _ = written("tensorrt", precision, tmp_path)
    ir.save(model, tmp_path / "toy.onnx")
    assert build(tmp_path / "toy.onnx", {name: (2, *shape[1:]) for name, shape in toy.SHAPES.items()}, target) > 0


def test_what_is_written_for_the_cpu_does_not(tmp_path):
    model, _ = written("cpu", "fp32", tmp_path)
    ir.save(model, tmp_path / "toy.onnx")
    with pytest.raises(EngineError, match="cannot read the graph: .*(type Int32|UINT8|UInt8)"):
        build(tmp_path / "toy.onnx", {name: (2, *shape[1:]) for name, shape in toy.SHAPES.items()}, "sm86")


@sweep
@pytest.mark.parametrize("name", ["unet", "vae_decoder"])
def test_the_built_in_model_builds(name, tmp_path):
    bundle = open_bundle(folder_of("emoji"), verify=False)
    component, defaults = bundle.manifest.components[name], bundle.manifest.defaults
    pixels = bundle.manifest.latents.factor
    sides = {"batch": 2, "height": defaults.height // pixels, "width": defaults.width // pixels}
    sides["tokens"] = bundle.manifest.tokenizer.length
    shapes = {spec.name: tuple(sides.get(side, side) for side in spec.shape) for spec in component.inputs}
    model = ir.load(bundle.path(component.file))
    split_concatenations(model, layers_of(model, shapes))
    layers = layers_of(model, shapes)
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    qdq.write_qdq(model, plans_of(model, layers, "tensorrt", feeds, tmp_path), "tensorrt")
    ir.save(model, tmp_path / "graph.onnx")
    assert build(tmp_path / "graph.onnx", shapes, "sm86") > (tmp_path / "graph.onnx").stat().st_size / 2
