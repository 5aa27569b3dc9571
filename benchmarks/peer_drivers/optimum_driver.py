"""ONNX Runtime by optimum-onnx, with its own export and defaults."""

from __future__ import annotations

from clock import asked
from diffusers_call import report_pipeline
from optimum.onnxruntime import ORTStableDiffusionPipeline

model, _, steps = asked()
report_pipeline(ORTStableDiffusionPipeline.from_pretrained(model, provider="CPUExecutionProvider"), steps)
