"""Times published by others, to compare with our lower bounds; a row per figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latentrt_export.estimate.roofline import PrecisionName

MLPERF = "mlcommons/inference_results_{}, closed/NVIDIA, Orin_TRT, stable-diffusion-xl"
MODELOPT = "NVIDIA/Model-Optimizer, examples/benchmark.md, TensorRT 9.3"
FAL = "fal-ai/stable-diffusion-benchmarks"
STREAM = "cumulo-autumn/StreamDiffusion README; a frame is one call for all its steps"

SDXL = {"sdxl/unet/128x128/batch2": 20, "vae_decoder/128x128/batch1": 1}
# The UNet alone: the source does not say whether its figures include the VAE.
SDXL_30 = {"sdxl/unet/128x128/batch2": 30}
SDXL_50 = {"sdxl/unet/128x128/batch2": 50, "vae_decoder/128x128/batch1": 1}
SD15_50 = {"sd15/unet/64x64/batch2": 50, "vae_decoder/64x64/batch1": 1}
SD_TURBO = {"sd-turbo/unet/64x64/batch1": 1}
LCM = {"sd15/unet/64x64/batch4": 1}


@dataclass(frozen=True)
class Published:
    """A published figure. graphs: the graphs of benchmarks/costs.json that it covers, and how often each runs."""

    what: str
    device: str
    precision: PrecisionName
    seconds: float
    source: str
    graphs: Mapping[str, int]


PUBLISHED = (
    Published("SDXL, 20 steps, single stream", "agx-orin", "int8", 9.944, MLPERF.format("v4.1"), SDXL),
    Published("SDXL, 20 steps, offline", "agx-orin", "int8", 1 / 0.1017, MLPERF.format("v4.1"), SDXL),
    Published("SDXL, 20 steps, single stream", "agx-orin", "int8", 12.928, MLPERF.format("v4.0"), SDXL),
    Published("SDXL, 30 steps, INT8", "rtx6000-ada", "int8", 2.479, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, FP8", "rtx6000-ada", "int8", 2.441, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, FP16 (1.43 x INT8)", "rtx6000-ada", "fp16", 2.479 * 1.43, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, INT8", "rtx4090", "int8", 2.058, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, FP8", "rtx4090", "int8", 2.162, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, FP16 (1.20 x INT8)", "rtx4090", "fp16", 2.058 * 1.20, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, INT8", "l40s", "int8", 2.339, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, FP8", "l40s", "int8", 2.168, MODELOPT, SDXL_30),
    Published("SDXL, 30 steps, FP16 (1.25 x INT8)", "l40s", "fp16", 2.339 * 1.25, MODELOPT, SDXL_30),
    Published("SD 1.5, 50 steps, TensorRT 9.0", "a100", "fp16", 0.819, FAL, SD15_50),
    Published("SD 1.5, 50 steps, torch.compile", "a100", "fp16", 1.066, FAL, SD15_50),
    Published("SD 1.5, 50 steps, diffusers", "a100", "fp16", 1.591, FAL, SD15_50),
    Published("SDXL, 50 steps, TensorRT 9.0", "a100", "fp16", 4.102, FAL, SDXL_50),
    Published("SDXL, 50 steps, torch.compile", "a100", "fp16", 5.132, FAL, SDXL_50),
    Published("SDXL, 50 steps, diffusers", "a100", "fp16", 5.933, FAL, SDXL_50),
    Published("SD-Turbo, 1 step, text to image", "rtx4090", "fp16", 1 / 106.16, STREAM, SD_TURBO),
    Published("SD-Turbo, 1 step, image to image", "rtx4090", "fp16", 1 / 93.897, STREAM, SD_TURBO),
    Published("SD 1.5 + LCM, 4 steps, text to image", "rtx4090", "fp16", 1 / 38.02, STREAM, LCM),
    Published("SD 1.5 + LCM, 4 steps, image to image", "rtx4090", "fp16", 1 / 37.13, STREAM, LCM),
)
