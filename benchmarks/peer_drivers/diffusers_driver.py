"""diffusers on torch. Variants: float32; bfloat16 in channels_last, as its documentation advises for CPUs."""

from __future__ import annotations

import torch
from clock import asked
from diffusers import DiffusionPipeline
from diffusers_call import report_pipeline

model, variant, guidance, steps = asked()
pipeline = DiffusionPipeline.from_pretrained(model, torch_dtype=getattr(torch, variant))
if variant == "bfloat16":
    pipeline.unet.to(memory_format=torch.channels_last)
report_pipeline(pipeline, guidance, steps)
