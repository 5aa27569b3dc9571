"""Drawn label maps, layouts, vectors and images are what models of such take, and the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from latentrt.request.image_embedding import resolve_image_embedding
from latentrt.request.model_inputs import resolve_stand_ins
from latentrt.request.request import Request
from latentrt.request.segmentation import resolve_segmentation
from latentrt_calib.recording.requests import requests_for
from tests.export.ldm_pairs import layouts, retrieval, semantic
from tests.export.unclip_pairs import variations
from tests.sweep import rest_swept

MODELS = {"label maps": semantic, "layouts": layouts, "vectors": retrieval, "images": variations}

CONDITIONS = (resolve_stand_ins, resolve_segmentation, resolve_image_embedding)


@pytest.fixture(scope="module", params=rest_swept([*MODELS], ["vectors"]))
def pipeline(request, tmp_path_factory):
    """A model of each kind."""
    with MODELS[request.param](tmp_path_factory.mktemp("model")).ours as opened:
        yield opened


def test_they_are_what_the_model_takes(pipeline):
    manifest = pipeline.bundle.manifest
    first, second = requests_for(manifest, ["", ""], 3, steps=1)
    for request in (first, second):
        assert any(resolved(request, manifest) for resolved in CONDITIONS)
        assert pipeline.generate(**{name: value for name, value in vars(request).items() if value is not None}).images
    assert fields(first) != fields(second)
    assert fields(first) == fields(requests_for(manifest, [""], 3, steps=1)[0])


def fields(request: Request) -> list[object]:
    """The fields of a condition, comparable."""
    arrays = (request.segmentation, request.vectors, request.image)
    return [request.layout, *(None if one is None else np.asarray(one).tobytes() for one in arrays)]
