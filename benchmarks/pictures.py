"""The graph calls of one picture of each model in the devices' table, with a full row of tokens per prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.costs import load_costs
from latentrt_export.estimate.estimate import Call
from latentrt_export.estimate.roofline import PrecisionName

COSTS = load_costs()
# Autoencoders that leave fp16's range: all but Stable Diffusion 1.5's.
WIDE: PrecisionName = "fp32"


@dataclass(frozen=True)
class Picture:
    """The calls of a picture. precisions: those in which the model is exported for devices."""

    calls: Mapping[str, Call]
    precisions: tuple[PrecisionName, ...]

    @property
    def steps(self) -> int:
        """The calls of the denoiser, which is called most."""
        return max(call.times for call in self.calls.values())


def pictures() -> dict[str, Picture]:
    """Returns the pictures by title, all but FLUX.2 klein's with guidance."""
    unets, transformers = ("fp16", "int8"), ("fp16", "w4")
    return {
        "SD 1.5 at 512x512": Picture(sd15(), unets),
        "SDXL at 1024x1024": Picture(sdxl(), unets),
        "PixArt-Sigma at 512x512": Picture(pixart(64), transformers),
        "PixArt-Sigma at 1024x1024": Picture(pixart(128), transformers),
        "FLUX.2 klein 4B at 512x512": Picture(klein(32), transformers),
        "FLUX.2 klein 4B at 1024x1024": Picture(klein(64), transformers),
        "SD 3.5 medium without T5 at 1024x1024": Picture(sd35(), transformers),
    }


def sd15() -> dict[str, Call]:
    """Stable Diffusion 1.5, 20 steps."""
    return {
        "text_encoder": Call(COSTS["sd15/text_encoder/64x64/batch2"], 1),
        "cross_kv": Call(COSTS["sd15/cross_kv/64x64/batch4"], 1),
        "time_bias": Call(COSTS["sd15/time_bias/64x64/batch4"], 1),
        "unet": Call(COSTS["sd15/unet/64x64/batch2"], 20),
        "vae_decoder": Call(COSTS["vae_decoder/64x64/batch1"], 1),
    }


def sdxl() -> dict[str, Call]:
    """SDXL, 20 steps."""
    return {
        **clips(),
        "cross_kv": Call(COSTS["sdxl/cross_kv/128x128/batch2"], 1),
        "time_bias": Call(COSTS["sdxl/time_bias/128x128/batch2"], 1),
        "unet": Call(COSTS["sdxl/unet/128x128/batch2"], 20),
        "vae_decoder": Call(COSTS["vae_decoder/128x128/batch1"], 1, WIDE),
    }


def clips() -> dict[str, Call]:
    """The two text encoders of SDXL and of Stable Diffusion 3."""
    return {
        "text_encoder": Call(COSTS["sd15/text_encoder/64x64/batch2"], 1),
        "text_encoder_2": Call(COSTS["sdxl/text_encoder_2/64x64/batch2"], 1),
    }


def pixart(side: int) -> dict[str, Call]:
    """PixArt-Sigma with T5-XXL and SDXL's autoencoder, 20 steps. side: of the latents."""
    return {
        "text_encoder": Call(COSTS["pixart-sigma/text_encoder/128x128/batch2"], 1),
        "cross_kv": Call(COSTS["pixart-sigma/cross_kv/128x128/batch2"], 1),
        "time_bias": Call(COSTS["pixart-sigma/time_bias/128x128/batch2"], 1),
        "transformer": Call(COSTS[f"pixart-sigma/transformer/{side}x{side}/batch2"], 20),
        "vae_decoder": Call(COSTS[f"vae_decoder/{side}x{side}/batch1"], 1, WIDE),
    }


def klein(side: int) -> dict[str, Call]:
    """FLUX.2 klein 4B, 4 steps without guidance. side: of the latents."""
    return {
        "text_encoder": Call(COSTS["flux2-klein-4b/text_encoder/64x64/batch1"], 1),
        "context_rows": Call(COSTS["flux2-klein-4b/context_rows/64x64/batch1"], 1),
        "time_bias": Call(COSTS["flux2-klein-4b/time_bias/64x64/batch1"], 1),
        "transformer": Call(COSTS[f"flux2-klein-4b/transformer/{side}x{side}/batch1"], 4),
        "vae_decoder": Call(COSTS[f"flux2-klein-4b/vae_decoder/{side}x{side}/batch1"], 1, WIDE),
    }


def sd35() -> dict[str, Call]:
    """Stable Diffusion 3.5 medium without T5, 28 steps."""
    return {
        **clips(),
        "context_rows": Call(COSTS["sd35-medium/context_rows/128x128/batch2"], 1),
        "time_bias": Call(COSTS["sd35-medium/time_bias/128x128/batch2"], 1),
        "transformer": Call(COSTS["sd35-medium/transformer/128x128/batch2"], 28),
        "vae_decoder": Call(COSTS["sd35-medium/vae_decoder/128x128/batch1"], 1, WIDE),
    }
