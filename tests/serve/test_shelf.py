"""Models: loaded on demand, unloaded for others and when idle."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.errors import BundleError
from latentrt_serve.fields import order_of
from latentrt_serve.limits import Limits
from latentrt_serve.refusal import Refusal
from latentrt_serve.room import Room
from latentrt_serve.shelf import ModelOptions, shelf_of
from tests.serve.conftest import SMALL


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three bundles, which are copies of the built-in one."""
    root = tmp_path_factory.mktemp("models")
    for name in ("one", "two", "three"):
        shutil.copytree(MODELS / "emoji", root / name)
    return {name: root / name for name in ("one", "two", "three")}


def shelf(folders, **options):
    return shelf_of(folders, ModelOptions(engine="onnxruntime", **options))


def loaded(shelf):
    return {model.name for model in shelf.loaded()}


def use(shelf, name):
    with shelf.lent(name) as (pipeline, _):
        pipeline.generate("a red apple", **SMALL, seed=1)


def test_nothing_is_loaded_before_it_is_asked_for(folders):
    models = shelf(folders)
    assert loaded(models) == set()
    use(models, "two")
    assert loaded(models) == {"two"}
    models.put_back_unused()
    assert loaded(models) == set()


def test_the_one_that_was_not_used_for_longest_makes_room(folders):
    models = shelf(folders)
    models = shelf(folders, memory=int(2.5 * models.find("one").bytes))
    for name in ("one", "two", "one", "three"):
        use(models, name)
    assert loaded(models) == {"one", "three"}
    models.put_back_unused()


def test_a_model_in_use_is_not_unloaded(folders):
    models = shelf(folders, memory=1)
    with models.lent("one"):
        use(models, "two")
        assert loaded(models) == {"one", "two"}
        models.put_back_unused()
        assert loaded(models) == {"one"}
    use(models, "three")
    assert loaded(models) == {"three"}
    models.put_back_unused()


def test_idle_models_are_unloaded(folders):
    models = shelf(folders, idle=0.2)
    use(models, "one")
    models.put_back_idle()
    assert loaded(models) == {"one"}
    time.sleep(0.3)
    models.put_back_idle()
    assert loaded(models) == set()


def test_a_job_per_model_gives_each_its_picture(folders, pipeline):
    room = Room(shelf(folders, memory=1))
    room.start()
    jobs = [
        room.submit(order_of({"prompt": "a cat", "seed": 2, **SMALL}, room.shelf.find(name), Limits()))
        for name in ("one", "two", "three", "one")
    ]
    wanted = np.asarray(pipeline.generate("a cat", seed=2, **SMALL).images[0])
    for job in jobs:
        assert job.ended.wait(60)
        np.testing.assert_array_equal(np.asarray(job.pictures.images[0]), wanted)
    room.drain(10)


def test_an_unknown_model_is_refused_with_the_known_ones(folders):
    with pytest.raises(Refusal, match="expected one of one, two, three") as refused:
        shelf(folders).find("four")
    assert refused.value.status == 404


def test_a_damaged_bundle_is_refused_at_the_start(folders, tmp_path):
    shutil.copytree(folders["one"], tmp_path / "bad")
    (tmp_path / "bad" / "unet.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError):
        shelf({"bad": tmp_path / "bad"})
