"""A graph of the built-in model as OpenVINO compiles it, or reads it back where it has kept it."""

import numpy as np

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.engines import openvino as ov

FEEDS = {"context": np.linspace(-1, 1, 32 * 256, dtype=np.float32).reshape(1, 32, 256)}


def drawn():
    """What the graph gives, and whether it was read back."""
    engine = ov.engine_of(open_bundle(MODELS / "emoji", verify=False), "cross_kv")
    answer = engine(FEEDS)["cross_kv"]
    return answer, bool(engine.request.get_compiled_model().get_property("LOADED_FROM_CACHE"))
