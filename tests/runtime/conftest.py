import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.engines import open_engines
from tests.runtime.engines import standin
from tests.runtime.engines.standin_plans import VERSION
from tests.runtime.fake import moved_clock, pipeline_of


@pytest.fixture(scope="session")
def bundle():
    return open_bundle(MODELS / "emoji", verify=False)


@pytest.fixture
def calls():
    """Every call of an engine in order: the component and a copy of its feeds."""
    return []


@pytest.fixture
def fake(bundle, calls):
    """The built-in model on fake engines."""
    return pipeline_of(bundle, calls)


@pytest.fixture(scope="session")
def emoji():
    """The built-in model itself."""
    with latentrt.load("emoji", verify=False) as pipeline:
        yield pipeline


@pytest.fixture
def clock(monkeypatch):
    """The clock of phases, which a test moves: clock(seconds)."""
    return moved_clock(monkeypatch)


@pytest.fixture
def home(bundle, tmp_path, monkeypatch):
    """A folder of plans that no other test sees, and the user's secret beside it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def answers(bundle):
    """Each component of the built-in model, computed by ONNX Runtime."""
    return open_engines("onnxruntime", bundle)


@pytest.fixture
def cuda():
    return standin.Cuda()


@pytest.fixture
def trt(bundle, answers, cuda, home, monkeypatch):
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version=VERSION)
    trt.install(monkeypatch, home)
    return trt
