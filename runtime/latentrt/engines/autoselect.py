"""Choice of the engine for `engine="auto"`: the installed CPU engine with the shortest time to a first picture.

Engines are timed once per model, and the result is stored in a small file of the user's cache. The fastest engine
depends on the processor's instruction sets, the model's size and quantization, so no fixed rule finds it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from latentrt.bundle.folder import Bundle
from latentrt.device.cores import usable_cores
from latentrt.device.cpu import processor
from latentrt.engines import ENGINES, Engine, auto_engines, open_engines
from latentrt.engines.artifacts import graph_digest
from latentrt.engines.onnx import optimised
from latentrt.errors import EngineError
from latentrt.storage.atomic import new_file
from latentrt.storage.json_codec import read_record, record_text
from latentrt.storage.locks import locked
from latentrt.storage.user_dirs import user_cache, writable
from latentrt.tensors import Array, shape_of

log = logging.getLogger(__name__)

# Every engine is timed TURNS times and the least time counts: other work on the machine only adds to it, and engines
# with a cache load faster the second time. If a turn of all engines takes LONG_SECONDS, it is the last one.
TURNS, LONG_SECONDS = 3, 20.0


@dataclass(frozen=True)
class Situation:
    """Facts that decide which engine is the fastest.

    graph: digest of the UNet. optimised: name of the folder of its graph optimised by `latentrt build`; "" if there is
    none. cores: usable ones. versions: package versions by engine.
    """

    graph: str
    optimised: str
    processor: str
    cores: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """A measurement. model: the bundle's name. seconds: by engine, to load the UNet and run it for one picture."""

    model: str
    situation: Situation
    seconds: Mapping[str, float]

    @property
    def engine(self) -> str:
        """The name of the fastest engine."""
        return min(self.seconds, key=lambda name: self.seconds[name])


def fastest(bundle: Bundle) -> str:
    """The name of the fastest engine; times the engines if several are installed and no choice is stored.

    Raises EngineError if no engine runs the model.
    """
    names = [name for name in auto_engines() if ENGINES[name].installed]
    if len(names) == 1:
        return names[0]
    situation = situation_of(bundle, names)
    path = choice_file(situation)
    known = stored_choice(situation, path)
    if known is not None:
        return known.engine
    if not writable(path.parent):
        log.warning("%s: cannot be written, so engines are not timed: using %s", path.parent, names[0])
        return names[0]
    try:
        with locked(path.parent):  # two processes that time at once would slow each other
            return (stored_choice(situation, path) or time_and_store(bundle, situation, names, path)).engine
    except OSError as error:
        log.warning(
            "%s: the timing of engines cannot be stored (%s): using %s", path, error.strerror or error, names[0]
        )
        return names[0]


def time_and_store(bundle: Bundle, situation: Situation, names: Sequence[str], path: Path) -> Choice:
    """Times the engines and stores the choice at `path`. Raises EngineError as `fastest`, OSError if writing fails."""
    model = bundle.manifest.name
    log.warning(
        'engine "auto": several engines are installed (%s), so they are timed once to find the fastest for %s on this '
        'machine; this takes about 20 s for a small model, minutes for a large one. Engine "cpu" skips it.',
        ", ".join(names),
        model,
    )
    choice = Choice(model, situation, time_engines(bundle, names))
    with new_file(path) as temporary:
        temporary.write_text(record_text(choice), encoding="utf-8")
    return choice


def stored_choice(situation: Situation, path: Path) -> Choice | None:
    """The stored choice for this situation; None if there is none."""
    known = read(path)
    return known if known is not None and known.situation == situation else None


def stored_choices() -> list[Choice]:
    """The stored choices for this processor and the installed engines."""
    names = [name for name in auto_engines() if ENGINES[name].installed]
    here = (processor(), usable_cores(), versions_of(names))
    found = (read(path) for path in sorted(user_cache("fastest").glob("[!.]*.json")))
    choices = (choice for choice in found if choice is not None)
    return [c for c in choices if (c.situation.processor, c.situation.cores, c.situation.versions) == here]


def situation_of(bundle: Bundle, names: Iterable[str]) -> Situation:
    """The situation of a bundle on this machine."""
    manifest = bundle.manifest
    graph = graph_digest(manifest, manifest.components[manifest.denoiser])
    built = optimised.folder_of(bundle, manifest.denoiser)
    return Situation(graph, built.name if built else "", processor(), usable_cores(), versions_of(names))


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of the engines' packages, without importing them, which is slow."""
    return {name: version_of(ENGINES[name].requires) for name in names}


def version_of(module: str) -> str:
    """The version of the package that has a module; the package may have another name."""
    from importlib.metadata import (  # 30 ms, not needed with one engine
        PackageNotFoundError,
        packages_distributions,
        version,
    )

    try:
        return version(module)
    except PackageNotFoundError:
        packages = packages_distributions().get(module, [])
        return " ".join(f"{package} {version(package)}" for package in packages)


def choice_file(situation: Situation) -> Path:
    """The file of the choice for a situation."""
    key = json.dumps(asdict(situation), sort_keys=True)
    return user_cache("fastest") / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> Choice | None:
    """The choice in a file; None if the file cannot be read or names engines that its situation lacks."""
    choice = read_record(Choice, path)
    if choice is None:
        return None
    return choice if choice.seconds and choice.seconds.keys() <= choice.situation.versions.keys() else None


def time_engines(bundle: Bundle, names: Iterable[str]) -> dict[str, float]:
    """The seconds of each engine that runs the model, timed in turns, with one engine in memory at a time."""
    feeds, steps = feeds_of(bundle), bundle.manifest.defaults.steps
    seconds: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, EngineError] = {}
    for _ in range(TURNS):
        start = time.perf_counter()
        for name in [name for name in seconds if name not in failed]:
            try:
                seconds[name].append(
                    seconds_of_picture(open_engines(name, bundle)[bundle.manifest.denoiser], feeds, steps)
                )
            except EngineError as error:
                log.warning("%s", error)
                failed[name] = error
        if time.perf_counter() - start > LONG_SECONDS:
            break
    ran = {name: round(min(found), 3) for name, found in seconds.items() if name not in failed}
    if not ran:
        raise next(iter(failed.values()))
    return ran


def feeds_of(bundle: Bundle) -> dict[str, Array]:
    """Random inputs of the UNet at the bundle's default size, with two rows if guidance is on by default."""
    manifest, random = bundle.manifest, np.random.default_rng(0)
    sizes = manifest.sizes(batch=2 if manifest.defaults.guidance > 1 else 1)
    inputs = manifest.components[manifest.denoiser].inputs
    return {spec.name: random.standard_normal(shape_of(spec, sizes)).astype(spec.dtype) for spec in inputs}


def seconds_of_picture(engine: Engine, feeds: Mapping[str, Array], steps: int) -> float:
    """The time from loading to the last step of a picture, extrapolated from three calls."""
    try:
        return seconds_of_call(engine, feeds) + (steps - 1) * min(seconds_of_call(engine, feeds) for _ in range(2))
    finally:
        engine.close()


def seconds_of_call(engine: Engine, feeds: Mapping[str, Array]) -> float:
    """The time of one call, which includes loading if the engine is not loaded."""
    start = time.perf_counter()
    engine(feeds)
    return time.perf_counter() - start
