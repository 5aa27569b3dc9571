"""Choice of the engine for `engine="auto"`: the installed CPU engine with the shortest time to a first picture.

Measured once per model, and remembered in a small file of the user's cache. It cannot be known without measuring: it
depends on the processor's instructions, on the model's size and on whether the model is quantized.
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
from latentrt.storage.json_codec import TypedError, parse
from latentrt.storage.locks import locked
from latentrt.storage.user_dirs import user_cache, writable
from latentrt.tensors import Array, shape_of

log = logging.getLogger(__name__)

# The least of so many turns counts: other work on the machine only adds, and engines that keep what they compile load
# faster the second time. Where a turn of all takes this long, either hardly matters, and one must do.
TURNS, LONG_SECONDS = 3, 20.0


@dataclass(frozen=True)
class Situation:
    """What decides which engine is the fastest.

    graph: the UNet's digest. optimised: what `latentrt build` has made of it for ONNX Runtime; "" for nothing.
    versions: by engine.
    """

    graph: str
    optimised: str
    processor: str
    cores: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """What was measured. model: the bundle's name. seconds: by engine, to load the UNet and run it for one picture."""

    model: str
    situation: Situation
    seconds: Mapping[str, float]

    @property
    def engine(self) -> str:
        """The fastest."""
        return min(self.seconds, key=lambda name: self.seconds[name])


def fastest(bundle: Bundle) -> str:
    """The name of the engine; measures first where several are installed and nothing is remembered.

    Raises EngineError if none of them runs the model.
    """
    names = [name for name in auto_engines() if ENGINES[name].installed]
    if len(names) == 1:
        return names[0]
    situation = situation_of(bundle, names)
    path = path_of(situation)
    known = known_for(situation, path)
    if known is not None:
        return known.engine
    if not writable(path.parent):
        log.warning("%s cannot be written, so nothing is measured: using %s", path.parent, names[0])
        return names[0]
    try:
        with locked(path.parent):  # two that measure at once would measure each other
            return (known_for(situation, path) or measured(bundle, situation, names, path)).engine
    except OSError as error:
        log.warning("%s: what was measured cannot be kept (%s): using %s", path, error.strerror or error, names[0])
        return names[0]


def measured(bundle: Bundle, situation: Situation, names: Sequence[str], path: Path) -> Choice:
    """What is measured now, and remembered. Raises EngineError as `fastest`, OSError where it cannot be written."""
    model = bundle.manifest.name
    log.warning(
        'engine "auto": several engines are installed (%s), so they are timed once to find the fastest for %s on this '
        'machine; this takes about 20 s for a small model, minutes for a large one. Engine "cpu" skips it.',
        ", ".join(names),
        model,
    )
    choice = Choice(model, situation, measure(bundle, names))
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(choice), indent=2) + "\n", encoding="utf-8")
    return choice


def known_for(situation: Situation, path: Path) -> Choice | None:
    """What is remembered for this situation."""
    known = read(path)
    return known if known is not None and known.situation == situation else None


def remembered() -> list[Choice]:
    """What was measured on this processor with the engines that are installed now."""
    names = [name for name in auto_engines() if ENGINES[name].installed]
    here = (processor(), usable_cores(), versions_of(names))
    found = (read(path) for path in sorted(user_cache("fastest").glob("*.json")))
    choices = (choice for choice in found if choice is not None)
    return [c for c in choices if (c.situation.processor, c.situation.cores, c.situation.versions) == here]


def situation_of(bundle: Bundle, names: Iterable[str]) -> Situation:
    """What decides here and now."""
    manifest = bundle.manifest
    graph = graph_digest(manifest, manifest.components[manifest.denoiser])
    built = optimised.folder_of(bundle, manifest.denoiser)
    return Situation(graph, built.name if built else "", processor(), usable_cores(), versions_of(names))


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of the engines' packages; importing them only to ask would take longer than all else."""
    return {name: version_of(ENGINES[name].requires) for name in names}


def version_of(module: str) -> str:
    """The version of the package that brings a module, whose name may be longer than the module's."""
    from importlib.metadata import PackageNotFoundError, packages_distributions, version  # 30 ms that one engine spares

    try:
        return version(module)
    except PackageNotFoundError:
        packages = packages_distributions().get(module, [])
        return " ".join(f"{package} {version(package)}" for package in packages)


def path_of(situation: Situation) -> Path:
    """Where a choice is remembered."""
    key = json.dumps(asdict(situation), sort_keys=True)
    return user_cache("fastest") / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> Choice | None:
    """The choice in a file; None where there is none that can be read, or that names no engine of its situation."""
    try:
        choice = parse(Choice, json.loads(path.read_bytes()))
    except (OSError, TypedError, ValueError, RecursionError):
        return None
    return choice if choice.seconds and choice.seconds.keys() <= choice.situation.versions.keys() else None


def measure(bundle: Bundle, names: Iterable[str]) -> dict[str, float]:
    """The seconds of each engine that runs the model; they take turns, and one is in memory at a time."""
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
    """Random inputs of the UNet, of the bundle's default size, with guidance where that is the default."""
    manifest, random = bundle.manifest, np.random.default_rng(0)
    sizes = manifest.sizes(batch=2 if manifest.defaults.guidance > 1 else 1)
    inputs = manifest.components[manifest.denoiser].inputs
    return {spec.name: random.standard_normal(shape_of(spec, sizes)).astype(spec.dtype) for spec in inputs}


def seconds_of_picture(engine: Engine, feeds: Mapping[str, Array], steps: int) -> float:
    """The time from nothing to the last step of a picture, all but two of the steps reckoned."""
    try:
        return seconds_of_call(engine, feeds) + (steps - 1) * min(seconds_of_call(engine, feeds) for _ in range(2))
    finally:
        engine.close()


def seconds_of_call(engine: Engine, feeds: Mapping[str, Array]) -> float:
    """The time that one call takes, loading included where nothing is loaded."""
    start = time.perf_counter()
    engine(feeds)
    return time.perf_counter() - start
