"""A graph without a bundle: one ONNX file, whose inputs and outputs only ONNX Runtime knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentrt.engines import failure
from latentrt.engines.artifacts import one_line
from latentrt.engines.kinds import ALIASES, AUTO
from latentrt.engines.onnx.session import CPU, new_session
from latentrt.errors import EngineError
from latentrt.tensors import Array

ABLE = (CPU, "cuda")
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
PLANES = 3  # red, green, blue


class PictureGraph:
    """A network from a picture to a picture. sides: height and width that it is fixed to, None where any will do."""

    sides: tuple[int | None, int | None]

    def __init__(self, path: Path, engine: str = AUTO) -> None:
        """Opens the file. engine: auto is ONNX Runtime on the CPU. Raises EngineError for a file of another kind."""
        chosen = CPU if engine == AUTO else ALIASES.get(engine, engine)
        if chosen not in ABLE:
            raise EngineError(f"{path}: got the engine {engine}, expected {' or '.join(ABLE)} for an ONNX file")
        self.path, self.engine = path, chosen
        self.session = new_session(path, chosen)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        fits = len(inputs) == len(outputs) == 1 and all(is_picture(one.shape) for one in (*inputs, *outputs))
        if not fits or inputs[0].type not in TYPES:
            got = ", ".join(f"{one.name} {one.type} {one.shape}" for one in (*inputs, *outputs))
            raise EngineError(
                f"{path}: got {got}; expected one input and one output, pictures of (1, 3, height, width) in float32 "
                "or float16, as of Real-ESRGAN's ONNX files"
            )
        self.input, self.output = inputs[0].name, outputs[0].name
        self.dtype = TYPES[inputs[0].type]
        height, width = (side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape[2:])
        self.sides = height, width

    def __call__(self, pixels: Array) -> Array:
        """The output, (1, 3, height, width) float32, for an input of that kind. Raises EngineError if the run fails."""
        try:
            [found] = self.session.run([self.output], {self.input: pixels.astype(self.dtype)})
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception
            shape = "x".join(map(str, pixels.shape))
            raise failure(f"{self.path}: ONNX Runtime failed with {shape}: {one_line(error)}", error) from error
        return np.asarray(found, np.float32)


def is_picture(shape: Sequence[int | str | None]) -> bool:
    """Whether an axis order (batch, 3, height, width) is possible; sizes that are not fixed are names or None."""
    return len(shape) == 4 and (not isinstance(shape[1], int) or shape[1] == PLANES)
