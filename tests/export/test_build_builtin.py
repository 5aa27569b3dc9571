"""The whole built-in model becomes plans by NVIDIA's own builder: in fp16, and in INT8 once it is calibrated."""

import pytest

from latentrt.bundle import open_bundle
from latentrt.calib.calibrate import Options as Calibration
from latentrt.calib.calibrate import calibrate
from latentrt.calib.planning import Recipe
from latentrt.engines.plans import plan_store
from latentrt.export.build import Options, build
from latentrt.pipeline import folder_of

GPUS = ("sm86", "sm89", "sm120")
# One step of one picture: ranges are poor, and the graph is what any calibration makes.
SMALL = Calibration(
    ("a red apple",), ("a cat",), Recipe("tensorrt"), images=1, steps=1, evaluations=1, budget_db=-100.0
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Plans of components that two bundles share are found there, and built once."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("home")
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        patch.setenv("XDG_STATE_HOME", str(path / "state"))
        yield


@pytest.fixture(scope="module")
def float_plans(cache):
    return list(build("emoji", Options("tensorrt-rtx", GPUS, batches=(2,))))


def test_every_component_builds_in_fp16(float_plans):
    bundle = open_bundle(folder_of("emoji"), verify=False)
    components = bundle.manifest.components
    assert [(one.component, one.gpu) for one in float_plans] == [(name, gpu) for name in components for gpu in GPUS]
    assert {one.floats for one in float_plans} == {"fp16"}
    for one in float_plans:
        # Weights make up most of every plan: none was left out.
        assert one.bytes == one.path.stat().st_size > bundle.path(components[one.component].file).stat().st_size


def test_every_component_builds_in_int8(float_plans, tmp_path):
    calibrate("emoji", tmp_path / "int8", "int8", SMALL)
    plans = list(build(tmp_path / "int8", Options("tensorrt-rtx", GPUS[:1], batches=(2,))))
    components = open_bundle(tmp_path / "int8", verify=False).manifest.components
    assert components["unet"].precision == "int8"
    assert [(one.component, one.gpu) for one in plans] == [(name, GPUS[0]) for name in components]
    built = [one for one in plans if one.seconds is not None]
    assert {one.component for one in built} == {"unet"}, "the other components are those of the float bundle"
    assert {one.path for one in built}.isdisjoint(one.path for one in float_plans)
    assert all(one.bytes > (tmp_path / "int8" / "unet.onnx").stat().st_size for one in built)
    assert {key.sm for key in plan_store(tmp_path / "int8").keys()} == set(GPUS)
