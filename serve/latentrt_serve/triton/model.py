"""A bundle as a model of Triton's Python backend: one picture per request.

`latentrt triton` copies this file into a model repository; Triton imports it, and nobody else. Inputs are fields of
`latentrt.Request`, all of which may be left out. Outputs: "image", UINT8 of (height, width, 3), and "png",
the bytes of a file with its settings; only what a client asks for is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import latentrt
from latentrt.errors import LatentError
from latentrt.pipeline.metadata import bytes_with_text, picture_text


class TritonPythonModel:
    """What Triton makes one of per instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the bundle that the configuration names; a relative path is one in the version's folder."""
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        here = Path(args["model_repository"]) / args["model_version"] / told["bundle"]
        self.inputs = [one["name"] for one in config["input"]]
        self.pipeline = latentrt.load(here if here.exists() else told["bundle"], engine=told["engine"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """The responses to requests, in their order; a request that cannot be run gets an error of its own."""
        return [self.answered(request) for request in requests]

    def answered(self, request: Any) -> Any:
        """The response to one request."""
        try:
            run = self.pipeline.steps(latentrt.Request(**self.fields_of(request)))
            for _ in run:
                if request.is_cancelled():
                    return failed("cancelled", pb_utils.TritonError.CANCELLED)
        except LatentError as error:
            wrong = isinstance(error, ValueError)
            return failed(str(error), pb_utils.TritonError.INVALID_ARG if wrong else pb_utils.TritonError.INTERNAL)
        made = {name: OUTPUTS[name](run.result) for name in request.requested_output_names()}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in made.items()])

    def fields_of(self, request: Any) -> dict[str, Any]:
        """The fields of the request that a client sends."""
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.inputs}
        sent = {name: value_of(tensor.as_numpy()) for name, tensor in tensors.items() if tensor is not None}
        return {"prompt": "", **sent}

    def finalize(self) -> None:
        """Frees the bundle's memory."""
        self.pipeline.close()


def value_of(array: Any) -> Any:
    """The only value of an input; a text's bytes as text."""
    value = array.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value.item()


def failed(message: str, code: int) -> Any:
    """The response to a request that brought no picture."""
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message, code))


def pixels_of(result: latentrt.Result) -> Any:
    """The picture, (height, width, 3) UINT8."""
    return np.asarray(result.images[0])


def png_of(result: latentrt.Result) -> Any:
    """The bytes of the picture's PNG, as Triton holds texts."""
    text = picture_text(result.settings, 0, result.provenance())
    return np.array([bytes_with_text(result.images[0], "PNG", text)], dtype=object)


OUTPUTS = {"image": pixels_of, "png": png_of}
