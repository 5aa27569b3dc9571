"""The builders of TensorRT and TensorRT-RTX, with their differences in one table.

TensorRT 10.3 to 11.4 and TensorRT-RTX 1.4 to 1.7 share strongly typed networks, the ONNX parser's reading from a file,
profiles, memory pools, optimisation levels and the progress monitor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentrt.engines.nvidia.bindings import VARIANTS, RuntimeVariant, import_bindings, version_of
from latentrt.engines.nvidia.cuda import Device, current_device
from latentrt.errors import EngineError, RequestError


@dataclass(frozen=True)
class Differences:
    """Properties in which builders differ.

    ahead_of_time: builds for named GPUs on any machine; otherwise for the GPU of this machine. timing_cache: times
    kernels and keeps the results. attention: first version whose parser reads the operator Attention. refit_anywhere:
    builds plans with replaceable weights without a GPU too; TensorRT-RTX 1.7.1 fails.
    """

    ahead_of_time: bool
    timing_cache: bool
    attention: tuple[int, int]
    refit_anywhere: bool


DIFFERENCES = {
    "tensorrt": Differences(ahead_of_time=False, timing_cache=True, attention=(10, 14), refit_anywhere=True),
    "tensorrt-rtx": Differences(ahead_of_time=True, timing_cache=False, attention=(1, 4), refit_anywhere=False),
}


@dataclass(frozen=True)
class Builder:
    """An available builder. device: the GPU that it builds on and for; None for one that builds ahead of time."""

    variant: RuntimeVariant
    differences: Differences
    trt: Any
    device: Device | None

    @property
    def version(self) -> str:
        """The full version."""
        return str(self.trt.__version__)

    @property
    def label(self) -> str:
        """Name and version, for messages."""
        return f"{self.variant.name} {self.version}"


def open_builder(target: str) -> Builder:
    """Returns a target's builder. Raises EngineError without TensorRT, with a runtime-only one, or without a GPU."""
    variant, differences = VARIANTS[target], DIFFERENCES[target]
    trt = import_bindings(variant)
    if not hasattr(trt, "Builder"):
        raise EngineError(f"{target}: got {trt.__name__}, which runs plans and builds none; {variant.install}")
    if differences.ahead_of_time:
        return Builder(variant, differences, trt, None)
    try:
        return Builder(variant, differences, trt, current_device())
    except EngineError as error:
        raise EngineError(
            f"{target}: plans are built on the GPU that runs them, and there is none here ({error}). The graphs are "
            "lowered: copy the bundle to the device and run this command there, or use --target tensorrt-rtx, which "
            "needs no GPU to build"
        ) from error


def gpus_of(builder: Builder, requested: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the architectures to build for, such as "sm86"; all that the builder knows if `requested` is empty.

    Raises RequestError for an unknown architecture, and for another GPU than that of a builder that builds on its GPU.
    """
    if builder.device is not None:
        known = (builder.device.sm,)
        hint = "build on the GPU that runs the plan"
    else:
        known = tuple(name.lower() for name in builder.trt.ComputeCapability.__members__ if name.startswith("SM"))
        hint = "other GPUs need --target tensorrt on the device itself"
    unknown = [sm for sm in requested if sm not in known]
    if unknown:
        raise RequestError(
            f"--gpu: got {', '.join(unknown)}, expected some of {', '.join(known)}, for which {builder.label} "
            f"builds; {hint}"
        )
    return tuple(sm for sm in known if sm in requested) or known


def check_attention(builder: Builder) -> None:
    """Raises RequestError if the parser does not read the operator Attention."""
    if version_of(builder.version) < builder.differences.attention:
        first = ".".join(map(str, builder.differences.attention))
        raise RequestError(
            f"--attention operator: got {builder.label}, expected {first} or later; leave the option out"
        )


def check_refit(builder: Builder) -> None:
    """Raises EngineError if plans with replaceable weights need a GPU to build, and there is none."""
    if not builder.differences.refit_anywhere:
        try:
            current_device()
        except EngineError as error:
            raise EngineError(
                f"--refit, --stripped: {builder.label} builds plans with replaceable weights only where there is a GPU "
                f"({error}); leave the option out, or build on the device"
            ) from error
