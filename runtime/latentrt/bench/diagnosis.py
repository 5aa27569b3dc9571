"""Diagnosis of this machine: engines, GPUs, memory, packages, and advice on what to install."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
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
from latentrt.engines.autoselect import stored_choices

RUNTIME_PACKAGES = ("numpy", "tokenizers", "pillow")
# Packages with the same files: the one installed last overwrites the other.
CONFLICTING = ("onnxruntime", "onnxruntime-gpu")
EXPORT_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")


def diagnose(root: Path = Path("/")) -> dict[str, Any]:
    """Returns versions, engines, memory, built-in models and advice as plain values for JSON.

    root: the root of the system's files. "memory" is None without /proc/meminfo; "jetson" is None on other machines.
    """
    available = memory(root / MEMINFO.relative_to("/"))
    jetson = read_jetson(root)
    nvidia = read_nvidia()
    providers = packages_distributions()  # half a second where many packages are installed
    engines = {name: engine_state(name, nvidia, providers) for name in ENGINES}
    packages = {name: installed(name) for name in (*RUNTIME_PACKAGES, *EXPORT_PACKAGES)}
    return {
        "latentrt": installed("latentrt"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
        "memory": available,
        "gpu": {**asdict(nvidia), "cuda": ".".join(map(str, nvidia.cuda)) if nvidia.cuda else None},
        "jetson": jetson_state(jetson, available),
        "engines": engines,
        "auto": auto_state(),
        "fastest": [
            {"model": choice.model, "engine": choice.engine, "seconds": choice.seconds} for choice in stored_choices()
        ],
        "packages": packages,
        "models": built_in(),
        "advice": [*advice(engines, packages), *(jetson_advice(jetson, available) if jetson else ())],
    }


def jetson_state(jetson: Jetson | None, available: dict[str, int] | None) -> dict[str, Any] | None:
    """Facts of a Jetson, and the models that fit its available memory; None for another machine."""
    return {**asdict(jetson), "fits": fits(available["available_bytes"]) if available else []} if jetson else None


def auto_state() -> dict[str, Any]:
    """The installed engines that "auto" may stand for, and the value of LATENTRT_ENGINE if that names one."""
    names = [name for name in auto_engines() if ENGINES[name].installed]
    return {"engines": names, VARIABLE: os.environ.get(VARIABLE) or None}


def engine_state(name: str, nvidia: Nvidia, providers: Mapping[str, list[str]]) -> dict[str, Any]:
    """State of an engine: installed, usable, its package and version, its extra, and its problem.

    providers: the installed packages that have each module.
    """
    kind, package = ENGINES[name], package_of(name, providers)
    problem = problem_of(kind, nvidia)
    return {
        "installed": kind.installed,
        "usable": problem is None,
        "package": package,
        "version": installed(package),
        "extra": kind.extra,
        "problem": problem,
    }


def package_of(name: str, providers: Mapping[str, list[str]]) -> str:
    """The installed package that provides an engine; several can. Its module's name if none is installed."""
    kind = ENGINES[name]
    module = kind.found or kind.requires
    found = providers.get(module, []) if kind.installed else []
    return next((one for one in found if not kind.file or "gpu" in one), [*found, module][0])


def problem_of(kind: EngineKind, nvidia: Nvidia) -> str | None:
    """Why an engine cannot be used, and what to do about it; None if it can be used."""
    if not kind.installed:
        return f"not installed: {kind.install}"
    if kind.file and all(map(installed, CONFLICTING)):
        return f"{' and '.join(CONFLICTING)} are both installed: {kind.install}"
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
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def advice(engines: dict[str, dict[str, Any]], packages: dict[str, str | None]) -> list[str]:
    """Commands that install missing packages; an empty list if none is missing."""
    lines = []
    if not any(engine["usable"] for engine in engines.values()):
        lines.append("no engine can be used: run `pip install 'latentrt[cpu]'`")
    missing = [name for name in EXPORT_PACKAGES if packages[name] is None]
    if missing:
        lines.append(f"to export checkpoints ({', '.join(missing)}): run `pip install 'latentrt[cpu,export]'`")
    return lines
