import pytest

import latentrt
from latentrt.bundle import open_bundle
from latentrt.pipeline import MODELS
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
