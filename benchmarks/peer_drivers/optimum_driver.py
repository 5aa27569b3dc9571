"""ONNX Runtime by optimum-onnx, with its own export and defaults."""

from __future__ import annotations

from clock import asked
from diffusers_call import report_pipeline
from optimum.onnxruntime import ORTStableDiffusionPipeline

model, _, guidance, steps = asked()
pipeline = ORTStableDiffusionPipeline.from_pretrained(model, provider="CPUExecutionProvider")
report_pipeline(pipeline, guidance, steps)
