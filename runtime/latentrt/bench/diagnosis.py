"""What this machine has that matters for running or exporting, and what to install where something is missing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from latentrt.bundle.catalog import built_in
from latentrt.device.cores import usable_cores
from latentrt.device.jetson import Jetson, fits, read_jetson
from latentrt.device.jetson import advice as jetson_advice
from latentrt.device.meminfo import MEMINFO, memory
from latentrt.device.nvidia import Nvidia, read_nvidia
from latentrt.engines import ENGINES, VARIABLE, EngineKind, auto_engines
from latentrt.engines.autoselect import remembered

RUNNING = ("numpy", "tokenizers", "pillow")
# Packages of the same files: whichever is installed last overwrites the other's.
BESIDE = ("onnxruntime", "onnxruntime-gpu")
EXPORTING = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")


def diagnose(root: Path = Path("/")) -> dict[str, Any]:
    """Returns versions, engines, memory, built-in models and advice, as JSON can hold them.

    root: where the system's files are. A machine without /proc/meminfo reports no memory, one that is no Jetson no
    Jetson: both None.
    """
    known = memory(root / MEMINFO.relative_to("/"))
    jetson = read_jetson(root)
    nvidia = read_nvidia()
    engines = {name: engine_state(name, nvidia) for name in ENGINES}
    packages = {name: installed(name) for name in (*RUNNING, *EXPORTING)}
    return {
        "latentrt": installed("latentrt"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
        "memory": known,
        "gpu": {**asdict(nvidia), "cuda": ".".join(map(str, nvidia.cuda)) if nvidia.cuda else None},
        "jetson": about_jetson(jetson, known),
        "engines": engines,
        "auto": auto_state(),
        "fastest": [
            {"model": choice.model, "engine": choice.engine, "seconds": choice.seconds} for choice in remembered()
        ],
        "packages": packages,
        "models": built_in(),
        "advice": [*advice(engines, packages), *(jetson_advice(jetson, known) if jetson else ())],
    }


def about_jetson(jetson: Jetson | None, known: dict[str, int] | None) -> dict[str, Any] | None:
    """What there is to say of a Jetson, and which models fit the memory that is available."""
    return {**asdict(jetson), "fits": fits(known["available_bytes"]) if known else []} if jetson else None


def auto_state() -> dict[str, Any]:
    """The installed engines that "auto" may stand for, and the value of LATENTRT_ENGINE if that names one."""
    names = [name for name in auto_engines() if ENGINES[name].installed]
    return {"engines": names, VARIABLE: os.environ.get(VARIABLE) or None}


def engine_state(name: str, nvidia: Nvidia) -> dict[str, Any]:
    """Whether an engine can be used, which of the packages that may provide it is there, and what is wrong."""
    kind, package = ENGINES[name], package_of(name)
    problem = problem_of(kind, nvidia)
    return {
        "installed": kind.installed,
        "usable": problem is None,
        "package": package,
        "version": installed(package),
        "extra": kind.extra,
        "problem": problem,
    }


def package_of(name: str) -> str:
    """The package that provides an engine here, of the several that may."""
    kind = ENGINES[name]
    module = kind.found or kind.requires
    providers = packages_distributions().get(module, []) if kind.installed else []
    return next((one for one in providers if not kind.file or "gpu" in one), [*providers, module][0])


def problem_of(kind: EngineKind, nvidia: Nvidia) -> str | None:
    """Why an engine cannot be used, and what to do; None where it can."""
    if not kind.installed:
        return f"not installed: {kind.install}"
    if kind.file and all(map(installed, BESIDE)):
        return f"{' and '.join(BESIDE)} are both installed: {kind.install}"
    if not kind.gpu:
        return None
    if nvidia.problem is not None:
        return f"{nvidia.problem}, or use --engine cpu"
    bindings = installed("cuda-bindings")
    if kind.bindings and bindings is None:
        return f"it needs cuda-bindings: {kind.install}"
    if kind.bindings and bindings and nvidia.cuda and int(bindings.split(".")[0]) > nvidia.cuda[0]:
        major, minor = nvidia.cuda
        return (
            f"the driver runs CUDA {major}.{minor} at most, which is too old for cuda-bindings {bindings}: update the "
            f"driver, or run `pip install 'cuda-bindings<{major + 1}'`"
        )
    return None


def installed(package: str) -> str | None:
    """The version of an installed package, None if it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def advice(engines: dict[str, dict[str, Any]], packages: dict[str, str | None]) -> list[str]:
    """What to run next; nothing when all is there."""
    lines = []
    if not any(engine["usable"] for engine in engines.values()):
        lines.append("no engine can be used: run `pip install 'latentrt[cpu]'`")
    missing = [name for name in EXPORTING if packages[name] is None]
    if missing:
        lines.append(f"to export checkpoints ({', '.join(missing)}): run `pip install 'latentrt[cpu,export]'`")
    return lines
