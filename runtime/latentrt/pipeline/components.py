"""Components: a bundle's graphs on their engines, and its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import QUANTIZED_AT_ONCE
from latentrt.bundle.tasks import TINY_DECODER
from latentrt.engines import Engine
from latentrt.engines.keeping import keep
from latentrt.errors import NotFiniteError
from latentrt.pipeline.memory import Budget
from latentrt.pipeline.turns import TURNS
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.tensors import Array, Tensor

if TYPE_CHECKING:
    from latentrt.lora.weights import Applied

log = logging.getLogger(__name__)

QUANTIZER = "quantizer"


@dataclass
class Components:
    """The engines and the tokenizer that a run calls.

    tokenizer: None for a model without prompts. engines: by component. engine: the name of their kind. split_guidance:
    one call of the denoiser per prompt. budget: memory limit of a run; None for no limit. loras: the files added to the
    weights.
    """

    bundle: Bundle
    tokenizer: Tokenizer | None
    engines: Mapping[str, Engine]
    engine: str = "onnxruntime"
    split_guidance: bool = False
    budget: Budget | None = None
    loras: tuple[Applied, ...] = ()

    def call(self, component: str, *, kept: Collection[str] = (), **feeds: Tensor) -> dict[str, Array]:
        """The outputs of one component by name; each array is converted to the type of the graph's input.

        kept: names of outputs that stay on the engine's device, as tensors for a later call; all others are arrays.
        """
        dtypes = {spec.name: spec.dtype for spec in self.bundle.manifest.components[component].inputs}
        with TURNS.lock if self.budget else nullcontext():  # a preview's call is outside any run's turn
            typed = {
                name: np.ascontiguousarray(feed, dtypes.get(name, feed.dtype)) if isinstance(feed, np.ndarray) else feed
                for name, feed in feeds.items()
            }
            engine = self.engines[component]
            # What is kept may be a `DeviceTensor`, which whoever asks for it gives back in a later call.
            return cast(dict[str, Array], keep(engine, typed, kept) if kept else engine(cast(dict[str, Array], typed)))

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of unit-variance latents, each (batch, channels, rows, columns) float32.

        pixels: (batch, 3, height, width) in [-1, 1]. The log variance is clipped as in diffusers.
        """
        outputs = {name: one.astype(np.float32) for name, one in self.call("vae_encoder", image=pixels).items()}
        mean, space = outputs["mean"], self.bundle.manifest.latents
        if not np.isfinite(mean).all():
            raise NotFiniteError("vae_encoder: got latents that are not finite; export with --precision fp32 or w16")
        if "log_variance" not in outputs:  # VQ models' encoders have no posterior
            return space.from_vae(mean), np.zeros_like(mean)
        deviation = np.exp(np.clip(outputs["log_variance"], -30, 20) / 2)
        return space.from_vae(mean), deviation * np.float32(space.scaling)

    def decode(self, latents: Array, decoder: str = "vae_decoder") -> Array:
        """Pixels in about [-1, 1], (batch, 3, height, width), from unit-variance latents; one image at a time.

        decoder: the component, "vae_decoder" or "tiny_decoder".
        """
        feeds: list[dict[str, Array]] = [{"sample": latents[i : i + 1]} for i in range(len(latents))]
        if decoder != TINY_DECODER:
            space = self.bundle.manifest.latents
            feeds = [{"latents": self.quantized(space.for_vae(one["sample"]))} for one in feeds]
        pixels = np.concatenate([self._decode_one(decoder, one) for one in feeds])
        if not np.isfinite(pixels).all():
            raise NotFiniteError(f"{decoder}: got pixels that are not finite; export with --precision fp32 or w16")
        return pixels

    def quantized(self, latents: Array) -> Array:
        """The nearest vectors of the codebook, in the latents' shape; the latents themselves without a codebook.

        In stripes: the distances to all vectors of the codebook take thousands of times the latents' memory.
        """
        if QUANTIZER not in self.bundle.manifest.components:
            return latents
        vectors = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
        stripes = range(0, len(vectors), QUANTIZED_AT_ONCE)
        found = [self.call(QUANTIZER, vectors=vectors[one : one + QUANTIZED_AT_ONCE])["quantized"] for one in stripes]
        batch, channels, rows, columns = latents.shape
        return np.concatenate(found).reshape(batch, rows, columns, channels).transpose(0, 3, 1, 2)

    def _decode_one(self, decoder: str, feeds: Mapping[str, Array]) -> Array:
        """The pixels of one image; the other components are unloaded if memory is short."""
        try:
            return self.call(decoder, **feeds)["image"]
        except MemoryError:  # the engine's or NumPy's
            log.warning("too little memory to decode: unloading the other components")
        self.unload()  # outside the handler, because its error keeps the failed call's arrays alive
        return self.call(decoder, **feeds)["image"]

    def unload(self) -> None:
        """Frees the engines' memory; each component loads again at its next call."""
        for engine in self._opened():
            engine.unload()

    def _opened(self) -> list[Engine]:
        """Every engine that may hold memory."""
        return list(self.engines.values())
