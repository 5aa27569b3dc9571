"""The pipeline: takes a request, gives one step at a time, and the result at the end."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from latentrt.bundle.folder import Bundle
from latentrt.engines import AUTO, Engine, choose, open_engines, open_with_weights
from latentrt.errors import OutOfMemoryError
from latentrt.pipeline.components import Components
from latentrt.pipeline.memory import Budget, memory_models
from latentrt.pipeline.prepare import prepare_settings
from latentrt.pipeline.result import Result
from latentrt.pipeline.run import Run
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.request.request import Request
from latentrt.request.settings import resolve

if TYPE_CHECKING:
    from latentrt.lora.tagged import Scales
    from latentrt.request.settings import Settings


class Pipeline(Components):
    """A loaded bundle that generates pictures. A context manager: leaving it frees the engines' memory.

    Threads may share one. chosen: True if the engine was chosen automatically, not named by the user.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer | None,
        engines: Mapping[str, Engine],
        engine: str = "cpu",
        *,
        split_guidance: bool = False,
        budget: Budget | None = None,
        lora_dir: str | Path | None = None,
        chosen: bool = False,
    ) -> None:
        super().__init__(bundle, tokenizer, engines, engine, split_guidance, budget)
        self.unchanged, self.chosen = engines, chosen
        self.exchanging: dict[str, Engine] = {}
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
        """Returns a pipeline with these engines for their components; all other components are shared."""
        other = copy(self)
        other._tagged = None
        other.engines, other.unchanged = {**self.engines, **engines}, {**self.unchanged, **engines}
        return other

    def with_loras(self, loras: Mapping[str | Path, float | tuple[float, float]]) -> Pipeline:
        """Returns a pipeline with only these LoRA files added to its weights; this one stays unchanged.

        loras: the scale of each file, such as {"style.safetensors": 0.8}, or two, (0.8, 0.5): the UNet's and the text
        encoders'. Components that none of them changes are shared; the others are loaded anew when first called, from
        the canonical graph. With the engine "auto", ONNX Runtime runs all components, even if another engine is faster.
        If memory is short, `unload` the old pipeline first. Raises CheckpointError for a file that cannot be read or
        does not fit the bundle, EngineError for an engine or a bundle that cannot take LoRA files.

        >>> pipe.with_loras({"style.safetensors": 0.8}).generate("a red apple")  # doctest: +SKIP
        """
        from latentrt.lora.weights import applied, changed_weights, loras_of  # here: it takes 20 ms

        chosen = loras_of(loras)
        other = self._exchanging() if chosen else copy(self)
        weights = changed_weights(self.bundle, chosen) if chosen else {}
        changed = (
            open_with_weights(other.engine, self.bundle, weights, low_memory=self.budget is not None) if chosen else {}
        )
        other.engines, other.loras = {**other.unchanged, **changed}, applied(chosen)
        other.added = {one.file: (float(one.scale), float(one.scale_of("text_encoder"))) for one in chosen}
        other._tagged = None
        if self.budget is not None:
            other.budget = replace(self.budget, models=memory_models(other.engine, other.engines))
        return other

    def _exchanging(self) -> Pipeline:
        """A copy on an engine that takes changed weights, unless the user named an engine that does not."""
        other, low_memory = copy(self), self.budget is not None
        if self.chosen:
            other.engine = choose(AUTO, self.bundle, low_memory=low_memory, takes_weights=True)
        if other.engine != self.engine:
            self.exchanging = self.exchanging or open_engines(other.engine, self.bundle, low_memory=low_memory)
            other.unchanged = other.engines = self.exchanging
        return other

    def tagged(self, settings: Settings) -> Pipeline:
        """Returns the pipeline with the LoRA files that the settings' prompts name added to its own; itself for none.

        The last one is cached, so that the next request with the same tags finds its weights loaded. Raises
        RequestError for a tag that is malformed or names no file, and errors of `with_loras`.
        """
        from latentrt.lora.tagged import scales_in, summed_scales, version_of

        named = scales_in(settings, self.lora_dir)
        if not named:
            return self
        scales: dict[str | Path, float | tuple[float, float]] = dict(summed_scales(self.added, named).items())
        key = [(file, scale, version_of(file)) for file, scale in scales.items()]
        cached = self._tagged  # read once: another thread may replace it
        if cached is None or cached[0] != key:
            self._tagged = None  # frees the weights of the last tags, unless a run uses them
            cached = self._tagged = key, self.with_loras(scales)
        return cached[1]

    def close(self) -> None:
        """Frees all memory of the engines."""
        for engine in self._opened():
            engine.close()

    def _opened(self) -> list[Engine]:
        """All engines: the pipeline's, those that take changed weights, and those of the last tags."""
        cached = self._tagged
        tagged = cached[1].engines.values() if cached else ()
        return list(dict.fromkeys([*self.engines.values(), *self.exchanging.values(), *tagged]))

    def generate(self, prompt: str = "", **options: Any) -> Result:
        """Returns the images for `prompt`; the options are those of `Request`.

        Raises RequestError for an invalid request, EngineError if an engine fails.
        """
        run = self.steps(Request(prompt, **options))
        for _ in run:
            pass
        return run.result

    def steps(self, request: Request) -> Run:
        """Returns a run, an iterator of steps. Stop iterating to cancel; after the last step, `run.result` is there.

        Raises RequestError at once for an invalid request.
        """
        try:
            loras = [str(file) for file, (unet, _) in self.added.items() if unet]
            settings = resolve(request, self.bundle.manifest, loras)
            pipeline = self.tagged(settings)
            return Run(pipeline, prepare_settings(pipeline, settings))
        except MemoryError as error:  # Pillow's or NumPy's, of an image to start from
            if isinstance(error, OutOfMemoryError):
                raise
            raise OutOfMemoryError(f"{str(error) or 'out of memory'}; ask for fewer or smaller images") from error
