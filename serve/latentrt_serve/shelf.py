"""The models of a server: opened by name, loaded when asked for, unloaded when others need the memory or when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.pipeline.load import check_complete, load, load_tokenizer
from latentrt.pipeline.pipeline import Pipeline
from latentrt.prompt.tokenizer import Tokenizer
from latentrt_serve.gather import InTurn, Joined, Meeting
from latentrt_serve.refusal import Refusal


@dataclass(frozen=True)
class ModelOptions:
    """How models are loaded.

    batch: pictures that one denoiser call may hold. wait: seconds that a call waits for others. memory: bytes that all
    loaded models may take together; None for no limit. idle: seconds after which an unused model is unloaded; None for
    never. lora_dir: the folder of the LoRA files that prompts may name.
    """

    engine: str = "auto"
    batch: int = 4
    wait: float = 0.02
    memory: int | None = None
    idle: float | None = None
    lora_dir: Path | None = None


@dataclass
class Model:
    """One model of the shelf.

    tokenizer: to check prompts with; None for a model without. pipeline, meeting: None until it is loaded. used: when
    it was used last. users: the number of runs that use it.
    """

    name: str
    folder: Path
    bundle: Bundle
    tokenizer: Tokenizer | None = None
    pipeline: Pipeline | None = None
    meeting: Meeting | None = None
    used: float = 0.0
    users: int = 0

    @property
    def flow(self) -> bool:
        """Whether the model takes the samplers of flow models, and no others."""
        return self.bundle.manifest.noise_schedule.prediction == "flow_prediction"

    @property
    def bytes(self) -> int:
        """The size of the model's graphs and weights in files, about what it takes in memory."""
        return sum(record.bytes for record in self.bundle.manifest.files.values())


@dataclass
class Shelf:
    """All models by name. device: held during every engine's call, since one device computes one thing at a time."""

    models: Mapping[str, Model]
    options: ModelOptions = ModelOptions()
    device: threading.RLock = field(default_factory=threading.RLock)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def find(self, name: object) -> Model:
        """The model of a name; the first for None. Raises Refusal for a name that is not there."""
        if name is None:
            return next(iter(self.models.values()))
        if not isinstance(name, str) or name not in self.models:
            known = ", ".join(self.models)
            raise Refusal(404, "model_not_found", f"model: got {name!r}, expected one of {known}", param="model")
        return self.models[name]

    def without_paths(self, text: str) -> str:
        """The text with the names of models and options in place of the operator's folders, for clients."""
        folders = {str(model.folder): name for name, model in self.models.items()}
        if self.options.lora_dir is not None:
            folders[str(self.options.lora_dir)] = "--lora-dir"
        for folder, name in folders.items():
            text = text.replace(folder, name)
        return text

    @contextmanager
    def lent(self, name: str) -> Iterator[tuple[Pipeline, Meeting | None]]:
        """A block with a loaded model, which stays loaded as long."""
        model = self.find(name)
        with self._lock:
            model.users += 1
        try:
            yield self._loaded(model), model.meeting
        finally:
            with self._lock:
                model.users -= 1
                model.used = time.monotonic()

    def _loaded(self, model: Model) -> Pipeline:
        with self._lock:
            if model.pipeline is None:
                self._make_room(model.bytes)
                model.pipeline, model.meeting = self._open(model)
            return model.pipeline

    def _open(self, model: Model) -> tuple[Pipeline, Meeting | None]:
        """The pipeline of a model, whose engines take turns, and where the calls of its denoisers meet to be joined."""
        options, manifest = self.options, model.bundle.manifest
        pipeline = load(model.folder, engine=options.engine, lora_dir=options.lora_dir)
        engines = {name: InTurn(engine, self.device) for name, engine in pipeline.engines.items()}
        if options.batch == 1:
            return pipeline.with_engines(engines), None
        meeting = Meeting(options.wait)
        for name in filter(None, (manifest.denoiser, manifest.shallow)):
            inputs = manifest.components[name].inputs
            shared = frozenset(spec.name for spec in inputs if spec.shape[0] != "batch")
            engines[name] = Joined(pipeline.engines[name], self.device, meeting, shared)
        return pipeline.with_engines(engines), meeting

    def _make_room(self, needed: int) -> None:
        """Unloads the models that were not used for longest, until there is room for `needed` bytes more."""
        most = self.options.memory
        loaded = sorted(self.loaded(), key=lambda one: one.used)
        while most is not None and sum(one.bytes for one in loaded) + needed > most:
            unused = next((one for one in loaded if not one.users), None)
            if unused is None:
                break
            self.put_back(unused)
            loaded.remove(unused)

    def loaded(self) -> list[Model]:
        """The models that are loaded."""
        return [model for model in self.models.values() if model.pipeline is not None]

    def put_back(self, model: Model) -> None:
        """Frees a model's memory; it loads again when it is asked for."""
        with self._lock:
            if model.pipeline is not None and not model.users:
                model.pipeline.close()
                model.pipeline = model.meeting = None

    def put_back_unused(self) -> None:
        """Frees all models that no run uses, to make room at once."""
        for model in self.loaded():
            self.put_back(model)

    def put_back_idle(self) -> None:
        """Frees the models that were idle for too long."""
        idle, now = self.options.idle, time.monotonic()
        for model in self.loaded():
            if idle is not None and now - model.used > idle:
                self.put_back(model)


def shelf_of(folders: Mapping[str, str | Path], options: ModelOptions = ModelOptions()) -> Shelf:
    """The shelf of bundles by name. Raises BundleError for one that is damaged or incomplete."""
    models = {}
    for name, folder in folders.items():
        bundle = open_bundle(folder_of(folder))
        check_complete(bundle)
        models[name] = Model(name, bundle.folder, bundle, load_tokenizer(bundle))
    return Shelf(models, options)
