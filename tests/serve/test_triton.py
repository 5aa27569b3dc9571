"""Model repositories of Triton: their files, and the model, with the interface that Triton documents in its place.

Triton's own module can be imported in Triton alone; `python -m benchmarks.serve_triton` runs the model there.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from latentrt.errors import EngineError, OutputError, RequestError
from latentrt.pipeline.metadata import own_record
from latentrt_serve.cli.triton import triton
from latentrt_serve.triton.repository import INPUTS, MODEL, write_repository
from tests.serve.conftest import SMALL


class Tensor:
    """Triton's tensor: a name and an array."""

    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class Response:
    """Triton's response: tensors, or an error."""

    def __init__(self, output_tensors, error=None):
        self.tensors, self.error = {one.name(): one.as_numpy() for one in output_tensors}, error


class TritonError(Exception):
    """Triton's error: a message and a code."""

    INVALID_ARG, INTERNAL, CANCELLED = "INVALID_ARG", "INTERNAL", "CANCELLED"

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class Asked:
    """Triton's request, with tensors as its HTTP interface makes them: texts as objects that hold bytes."""

    def __init__(self, outputs=("image",), cancelled_after=None, **fields):
        self.outputs, self.left = outputs, cancelled_after
        self.tensors = {name: Tensor(name, self.array(value)) for name, value in fields.items()}

    @staticmethod
    def array(value):
        return np.array([value.encode()], dtype=object) if isinstance(value, str) else np.array([value])

    def requested_output_names(self):
        return list(self.outputs)

    def is_cancelled(self):
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_repository("emoji", folder, engine="onnxruntime", copy=True)
    return folder


@pytest.fixture(scope="module")
def model(repository):
    """The model of a repository, loaded as Triton does."""
    interface = types.ModuleType("triton_python_backend_utils")
    interface.Tensor, interface.InferenceResponse, interface.TritonError = Tensor, Response, TritonError
    interface.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, interface.__name__, interface)
        spec = importlib.util.spec_from_file_location("triton_model", repository / "emoji" / "1" / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    loaded = module.TritonPythonModel()
    config = {
        "input": [{"name": name} for name in INPUTS],
        "parameters": {"bundle": {"string_value": "bundle"}, "engine": {"string_value": "onnxruntime"}},
    }
    told = {"model_repository": str(repository / "emoji"), "model_version": "1", "model_config": json.dumps(config)}
    loaded.initialize(told)
    yield loaded
    loaded.finalize()


def test_the_repository_has_a_configuration_and_a_version(repository):
    assert sorted(path.name for path in (repository / "emoji").iterdir()) == ["1", "config.pbtxt"]
    assert (repository / "emoji" / "1" / "model.py").read_bytes() == MODEL.read_bytes()
    assert (repository / "emoji" / "1" / "bundle" / "bundle.json").is_file()
    config = (repository / "emoji" / "config.pbtxt").read_text()
    assert re.findall(r'^name: "(.*)"$', config, re.MULTILINE) == ["emoji"]
    assert re.findall(r'key: "(.*?)" value: { string_value: "(.*?)" }', config) == [
        ("bundle", "bundle"),
        ("engine", "onnxruntime"),
    ]
    assert config.count("optional: true") == len(INPUTS)
    assert config.count("{") == config.count("}")
    assert config.count("[") == config.count("]")


@pytest.mark.parametrize(("engine", "kind"), [("auto", "KIND_CPU"), ("cpu", "KIND_CPU"), ("tensorrt", "KIND_GPU")])
def test_the_engine_gives_the_kind_of_the_instance(tmp_path, engine, kind):
    place = write_repository("emoji", tmp_path, name="other", engine=engine)
    config = (place / "config.pbtxt").read_text()
    assert f"kind: {kind}," in config
    assert 'string_value: "emoji"' in config
    assert 'name: "other"' in config


def test_the_model_draws_the_library_s_picture(model, pipeline):
    asked = [Asked(("image", "png"), prompt="a red apple", seed=seed, **SMALL) for seed in (1, 2)]
    for seed, response in zip((1, 2), model.execute(asked), strict=True):
        wanted = np.asarray(pipeline.generate("a red apple", seed=seed, **SMALL).images[0])
        assert response.error is None
        assert response.tensors["image"].dtype == np.uint8
        assert np.array_equal(response.tensors["image"], wanted)
        with Image.open(io.BytesIO(response.tensors["png"][0])) as png:
            assert np.array_equal(np.asarray(png), wanted)
            assert own_record(Path("png"), png.text)["seed"] == seed


def test_only_what_is_asked_for_is_made(model):
    [response] = model.execute([Asked(("png",), prompt="a red apple", **SMALL)])
    assert list(response.tensors) == ["png"]


def test_wrong_and_cancelled_requests_get_errors_of_their_own(model):
    good = Asked(prompt="a red apple", **SMALL)
    cancelled = Asked(prompt="a red apple", cancelled_after=1, **SMALL)
    wrong = Asked(prompt="a red apple", **{**SMALL, "steps": 0})
    answers = model.execute([wrong, cancelled, good])
    assert [one.error.code if one.error else None for one in answers] == ["INVALID_ARG", "CANCELLED", None]
    assert "steps: got 0" in str(answers[0].error)


def test_what_cannot_be_written_is_refused(repository, tmp_path):
    with pytest.raises(OutputError, match="there is a model already"):
        write_repository("emoji", repository)
    with pytest.raises(RequestError, match="--name: got 'a/b'"):
        write_repository("emoji", tmp_path, name="a/b")
    with pytest.raises(EngineError):
        write_repository("emoji", tmp_path, engine="steam")
    assert not list(tmp_path.iterdir())


def test_the_command_names_the_folder(tmp_path):
    done = CliRunner().invoke(triton, ["emoji", str(tmp_path), "--json"])
    assert json.loads(done.output) == {"model": "emoji", "folder": str(tmp_path / "emoji")}
