"""OpenVINO GenAI: shapes are fixed before compiling, as its documentation advises; it chooses the precision."""

from __future__ import annotations

import sys
from collections.abc import Callable

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO would report to Google when imported

import openvino_genai  # noqa: E402
from clock import PROMPT, SIDE, asked, report  # noqa: E402

model, _, guidance, steps = asked()
pipeline = openvino_genai.Text2ImagePipeline(model)
pipeline.reshape(1, SIDE, SIDE, guidance)
pipeline.compile("CPU")


def draw(count: int, step_ended: Callable[[], None]) -> None:
    """A picture."""

    def ended(_step, _steps, _latents):
        step_ended()
        return False

    options = {"num_inference_steps": count, "guidance_scale": guidance, "width": SIDE, "height": SIDE}
    pipeline.generate(PROMPT, rng_seed=0, callback=ended, **options)


report(draw, steps)
