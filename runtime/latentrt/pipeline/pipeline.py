"""Text to image, and image to image: a request goes in, a step comes out at a time, the result last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, REMEDY, Bundle, open_bundle
from latentrt.bundle.tasks import FROM_AN_IMAGE, TEXT_TO_IMAGE, TINY_DECODER
from latentrt.conditioning.request_values import check_request_values
from latentrt.engines import CPU, Engine, choose, engine_kind, open_changed, open_engines
from latentrt.errors import BundleError, EngineError, OutOfMemoryError, RequestError
from latentrt.pipeline.memory import Budget, footprints_of
from latentrt.pipeline.result import Result
from latentrt.pipeline.run import Run, TwoPasses
from latentrt.pipeline.turns import TURNS
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.request.request import Request
from latentrt.request.settings import settle
from latentrt.tensors import Array

if TYPE_CHECKING:
    from latentrt.lora.tagged import Scales
    from latentrt.lora.weights import Applied
    from latentrt.request.settings import Settings

log = logging.getLogger(__name__)


def load(
    bundle: str | Path,
    *,
    engine: str = "cpu",
    verify: bool = True,
    split_guidance: bool = False,
    memory_budget: int | None = None,
    lora_dir: str | Path | None = None,
    loras: Mapping[str | Path, float | tuple[float, float]] | None = None,
) -> Pipeline:
    """Returns a pipeline for a bundle's folder, or for a built-in model by name ("emoji").

    engine: what runs the graphs; its package must be installed. "cpu" is the fastest of those for a CPU: measured when
    a model is first loaded with several of them installed. verify: hash every file first, so that damage is found
    before an engine reads it; graphs are read when first used, so leave the folder alone while the pipeline lives.
    split_guidance: call the UNet once for each prompt of a step, not once for all, which takes less memory and longer.
    memory_budget: the bytes that the whole process may need, on a CPU; runs are made to fit, or refused before they
    start; those of several threads wait for each other. lora_dir: the folder of the LoRA files that prompts name,
    `<lora:NAME:0.8>`; the environment's LATENTRT_LORAS where none is given. loras: LoRA files and their scales for
    every prompt, as `Pipeline.with_loras` takes them. With either, "cpu" draws with ONNX Runtime. A pipeline may be
    used from several threads. Raises BundleError or EngineError, and CheckpointError for LoRA files.
    """
    engine_kind(engine)
    opened = open_bundle(folder_of(bundle), verify=verify)
    check_complete(opened)
    frugal = memory_budget is not None
    name = choose(engine, opened, frugal=frugal, exchanges=bool(loras))
    engines = open_engines(name, opened, frugal=frugal)
    budget = None if memory_budget is None else Budget(memory_budget, footprints_of(name, engines))
    tokenizer, chosen = load_tokenizer(opened), engine == CPU
    pipeline = Pipeline(
        opened,
        tokenizer,
        engines,
        name,
        split_guidance=split_guidance,
        budget=budget,
        lora_dir=lora_dir,
        chosen=chosen,
    )
    return pipeline.with_loras(loras) if loras else pipeline


def check_complete(bundle: Bundle) -> None:
    """Raises BundleError unless the bundle can do text to image with the defaults that it states."""
    where = bundle.folder / MANIFEST
    needed = FROM_AN_IMAGE if bundle.manifest.extra_channels else TEXT_TO_IMAGE
    missing = {*needed, *bundle.manifest.text.encoders} - bundle.manifest.components.keys()
    check_request_values(bundle.manifest, where)
    if missing:
        raise BundleError(f"{where}: got no {', '.join(sorted(missing))}, which text to image needs; {REMEDY}")
    try:
        settle(Request(""), bundle.manifest)
    except RequestError as error:
        raise BundleError(f"{where}: its defaults cannot be run: {error}; {REMEDY}") from error


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer."""
    spec = bundle.manifest.tokenizer
    return Tokenizer.load(
        bundle.path(spec.file), length=spec.length, bos=spec.bos, eos=spec.eos, pad=spec.pad, embeddings=spec.embeddings
    )


class Pipeline:
    """A bundle's parts, put together. A context manager: leaving it frees what the engines hold.

    Threads may share one. chosen: whether the engine was chosen here, not named.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        engines: Mapping[str, Engine],
        engine: str = "cpu",
        *,
        split_guidance: bool = False,
        budget: Budget | None = None,
        lora_dir: str | Path | None = None,
        chosen: bool = False,
    ) -> None:
        self.bundle, self.tokenizer, self.engines, self.engine = bundle, tokenizer, engines, engine
        self.split_guidance, self.budget = split_guidance, budget
        self.unchanged, self.chosen = engines, chosen
        self.exchanging: dict[str, Engine] = {}
        self.loras: tuple[Applied, ...] = ()
        self.lora_dir = lora_dir
        self.added: Scales = {}
        self._tagged: tuple[object, Pipeline] | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def with_engines(self, engines: Mapping[str, Engine]) -> Pipeline:
        """Returns the same pipeline with other engines for these components; the others are shared."""
        other = copy(self)
        other._tagged = None
        other.engines, other.unchanged = {**self.engines, **engines}, {**self.unchanged, **engines}
        return other

    def with_loras(self, loras: Mapping[str | Path, float | tuple[float, float]]) -> Pipeline:
        """Returns the pipeline with these LoRA files, and no others, added to its weights; this one stays as it is.

        loras: the scale of each file, such as {"style.safetensors": 0.8}, or two, (0.8, 0.5): the UNet's and the text
        encoders'. Components that none of them changes are shared; the others are loaded anew when first called, from
        the canonical graph; of "cpu" by ONNX Runtime, all of them, whichever engine is the fastest. Where memory is
        short, `unload` what has run before. Raises CheckpointError for a file that cannot be read or does not fit the
        bundle, EngineError for an engine or a bundle that cannot take any.

        >>> pipe.with_loras({"style.safetensors": 0.8}).generate("a red apple")  # doctest: +SKIP
        """
        from latentrt.lora.weights import applied, changed_weights, loras_of  # 20 ms that other runs are spared

        chosen = loras_of(loras)
        other = self._exchanging() if chosen else copy(self)
        weights = changed_weights(self.bundle, chosen) if chosen else {}
        changed = open_changed(other.engine, self.bundle, weights, frugal=self.budget is not None) if chosen else {}
        other.engines, other.loras = {**other.unchanged, **changed}, applied(chosen)
        other.added = {one.file: (float(one.scale), float(one.scale_of("text_encoder"))) for one in chosen}
        other._tagged = None
        if self.budget is not None:
            other.budget = replace(self.budget, footprints=footprints_of(other.engine, other.engines))
        return other

    def _exchanging(self) -> Pipeline:
        """A copy on an engine that takes other weights, unless the user named one that does not."""
        other, frugal = copy(self), self.budget is not None
        if self.chosen:
            other.engine = choose(CPU, self.bundle, frugal=frugal, exchanges=True)
        if other.engine != self.engine:
            self.exchanging = self.exchanging or open_engines(other.engine, self.bundle, frugal=frugal)
            other.unchanged = other.engines = self.exchanging
        return other

    def tagged(self, settings: Settings) -> Pipeline:
        """Returns the pipeline with the LoRA files that the settings' prompts name besides its own; itself for none.

        The last one is kept, so that the next request with the same tags finds its weights loaded. Raises RequestError
        for a tag that is malformed or names no file, and as `with_loras` does.
        """
        from latentrt.lora.tagged import added_up, scales_in, version_of

        named = scales_in(settings, self.lora_dir)
        if not named:
            return self
        scales: dict[str | Path, float | tuple[float, float]] = dict(added_up(self.added, named).items())
        key = [(file, scale, version_of(file)) for file, scale in scales.items()]
        kept = self._tagged  # once: another thread may put its own there
        if kept is None or kept[0] != key:
            self._tagged = None  # frees the weights of the last tags, unless a run has them
            kept = self._tagged = key, self.with_loras(scales)
        return kept[1]

    def unload(self) -> None:
        """Frees what the engines hold; each component loads again when it is called."""
        for engine in self._opened():
            engine.unload()

    def close(self) -> None:
        """Frees everything that the engines hold."""
        for engine in self._opened():
            engine.close()

    def _opened(self) -> list[Engine]:
        """The engines, those that take other weights, and those of the last tags."""
        kept = self._tagged
        tagged = kept[1].engines.values() if kept else ()
        return list(dict.fromkeys([*self.engines.values(), *self.exchanging.values(), *tagged]))

    def generate(self, prompt: str, **options: Any) -> Result:
        """Returns the images for `prompt`; the options are those of `Request`.

        Raises RequestError for what cannot be generated, EngineError when an engine fails.
        """
        run = self.steps(Request(prompt, **options))
        for _ in run:
            pass
        return run.result

    def steps(self, request: Request) -> Run:
        """Returns a run to iterate over: each Step as it is done. Stop iterating to cancel; `run.result` comes last.

        Raises RequestError at once for what cannot be generated.
        """
        kind = Run if request.hires is None else TwoPasses
        try:
            settings = settle(request, self.bundle.manifest)
            return kind(self.tagged(settings), settings)
        except MemoryError as error:  # Pillow's or NumPy's, of an image to start from
            if isinstance(error, OutOfMemoryError):
                raise
            raise OutOfMemoryError(f"{str(error) or 'out of memory'}; ask for fewer or smaller images") from error

    def decode(self, latents: Array, decoder: str = "vae_decoder") -> Array:
        """Pixels in about [-1, 1], (batch, 3, height, width), from latents of unit variance; one image at a time.

        decoder: the component, "vae_decoder" or "tiny_decoder".
        """
        feeds: list[dict[str, Array]] = [{"sample": latents[i : i + 1]} for i in range(len(latents))]
        if decoder != TINY_DECODER:
            space = self.bundle.manifest.latents
            feeds = [{"latents": space.for_vae(one["sample"])} for one in feeds]
        pixels = np.concatenate([self._decoded(decoder, one) for one in feeds])
        if not np.isfinite(pixels).all():
            raise EngineError(f"{decoder}: got pixels that are not finite; export with --precision fp32 or w16")
        return pixels

    def _decoded(self, decoder: str, feeds: Mapping[str, Array]) -> Array:
        """The pixels of one image; with the other components out of memory, if it does not fit beside them."""
        try:
            return self.call(decoder, **feeds)["image"]
        except MemoryError:  # the engine's or NumPy's
            log.warning("too little memory to decode: unloading the other components")
        self.unload()  # outside the handler, whose error holds all that was made
        return self.call(decoder, **feeds)["image"]

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        """The mean and the deviation of latents of unit variance, each (batch, channels, rows, columns) float32.

        pixels: (batch, 3, height, width) in [-1, 1]. The range of the variance is that of diffusers.
        """
        outputs = self.call("vae_encoder", image=pixels)
        mean, log_variance = (outputs[name].astype(np.float32) for name in ("mean", "log_variance"))
        if not np.isfinite(mean).all():
            raise EngineError("vae_encoder: got latents that are not finite; export with --precision fp32 or w16")
        space = self.bundle.manifest.latents
        return space.from_vae(mean), np.exp(np.clip(log_variance, -30, 20) / 2) * np.float32(space.scaling)

    def call(self, component: str, **feeds: Array) -> dict[str, Array]:
        """Runs one component on `feeds`, each brought to the float type that its graph declares."""
        dtypes = {spec.name: spec.dtype for spec in self.bundle.manifest.components[component].inputs}
        with TURNS.lock if self.budget else nullcontext():  # a preview's call is in no run's turn
            typed = {name: np.ascontiguousarray(feed, dtypes.get(name, feed.dtype)) for name, feed in feeds.items()}
            return self.engines[component](typed)
