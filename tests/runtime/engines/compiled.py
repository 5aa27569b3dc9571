"""A graph of the built-in model, compiled by OpenVINO or read from its cache."""

import numpy as np

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.engines import openvino as ov

FEEDS = {"context": np.linspace(-1, 1, 32 * 256, dtype=np.float32).reshape(1, 32, 256)}


def drawn():
    """The output of the graph, and whether its compiled form came from the cache."""
    engine = ov.engine_of(open_bundle(MODELS / "emoji", verify=False), "cross_kv")
    answer = engine(FEEDS)["cross_kv"]
    return answer, bool(engine.request.get_compiled_model().get_property("LOADED_FROM_CACHE"))
