"""Times diffusers' UNet on an NVIDIA GPU in the same manner as `gpu_check.py`. Needs torch with CUDA, and diffusers.

    python -m benchmarks.torch_unet CONFIG

CONFIG is the `config.json` of a UNet of Stable Diffusion 1.x. Weights are random, which does not change the times. A
call takes and returns NumPy arrays; the prompt stays on the GPU. Prints the median of 50 calls.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

TOKENS = 32
WARM_UP, CALLS = 10, 50


def main() -> None:
    """Print a row for each type and batch."""
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| type | batch | eager, ms | CUDA graph, ms |\n|---|---|---|---|")
    for dtype in (torch.float32, torch.float16):
        unet = UNet2DConditionModel.from_config(config).to("cuda", dtype).eval()
        for batch in (1, 2):
            with torch.inference_mode():
                eager, graph = (median_ms(call) for call in calls(unet, config, batch, dtype))
            print(f"| {dtype} | {batch} | {eager:.2f} | {graph:.2f} |")


def calls(unet: Any, config: dict[str, Any], batch: int, dtype: torch.dtype) -> tuple[Callable[[], Any], ...]:
    """Functions that call the UNet: eager, and by a CUDA graph."""
    size = config["sample_size"]
    latents = np.random.default_rng(0).standard_normal((batch, config["in_channels"], size, size), np.float32)
    context = torch.randn(batch, TOKENS, config["cross_attention_dim"], device="cuda", dtype=dtype)
    sample, timestep = torch.from_numpy(latents).to("cuda", dtype), torch.tensor(500, device="cuda")

    def eager() -> np.ndarray:
        return unet(torch.from_numpy(latents).to("cuda", dtype), timestep, context).sample.float().cpu().numpy()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a capture needs an earlier call in a separate stream
        unet(sample, timestep, context)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        prediction = unet(sample, timestep, context).sample

    def graph() -> np.ndarray:
        sample.copy_(torch.from_numpy(latents))
        captured.replay()
        return prediction.float().cpu().numpy()

    return eager, graph


def median_ms(call: Callable[[], Any]) -> float:
    """Median milliseconds per call."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
