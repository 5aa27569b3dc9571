"""The TensorRT form parses and builds with NVIDIA's own builder, which needs no GPU to build for one."""

import numpy as np
import onnx_ir as ir
import pytest

from latentrt.bundle import open_bundle
from latentrt.calib import qdq
from latentrt.calib.layers import layers_of
from latentrt.calib.split import split
from latentrt.pipeline import folder_of
from tests.calib import toy
from tests.calib.test_qdq import plans_of, written

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
)


def build(path, shapes, target):
    """The plan's size in bytes. Fails with what the parser or the builder says."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return plan.nbytes


@pytest.mark.parametrize("target", ["SM86", "SM89"])
@pytest.mark.parametrize("precision", toy.FLOATS)
def test_a_small_graph_builds(precision, target, tmp_path):
    model, _ = written("tensorrt", precision, tmp_path)
    ir.save(model, tmp_path / "toy.onnx")
    assert build(tmp_path / "toy.onnx", {name: (2, *shape[1:]) for name, shape in toy.SHAPES.items()}, target) > 0


def test_what_is_written_for_the_cpu_does_not(tmp_path):
    model, _ = written("cpu", "fp32", tmp_path)
    ir.save(model, tmp_path / "toy.onnx")
    with pytest.raises(AssertionError, match="type Int32|UINT8|UInt8"):
        build(tmp_path / "toy.onnx", {name: (2, *shape[1:]) for name, shape in toy.SHAPES.items()}, "SM86")


def test_the_built_in_unet_builds(tmp_path):
    bundle = open_bundle(folder_of("emoji"), verify=False)
    component, defaults = bundle.manifest.components["unet"], bundle.manifest.defaults
    pixels = bundle.manifest.latents.pixels
    sides = {"batch": 2, "height": defaults.height // pixels, "width": defaults.width // pixels}
    sides["tokens"] = bundle.manifest.tokenizer.length
    shapes = {spec.name: tuple(sides.get(side, side) for side in spec.shape) for spec in component.inputs}
    model = ir.load(bundle.path(component.file))
    split(model, layers_of(model, shapes))
    layers = layers_of(model, shapes)
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    qdq.write(model, plans_of(model, layers, "tensorrt", feeds, tmp_path), "tensorrt")
    ir.save(model, tmp_path / "unet.onnx")
    assert build(tmp_path / "unet.onnx", shapes, "SM86") > (tmp_path / "unet.onnx").stat().st_size / 2
