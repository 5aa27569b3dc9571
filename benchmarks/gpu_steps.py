"""Times one step of the denoiser by ONNX Runtime and by torch, in several ways, and compares their results.

    python -m benchmarks.gpu_steps [built-in] [sd15] [sdxl] [--engine cuda|cpu] [--ways WAY,...] [--batch N]
                                   [--rounds N] [--steps N] [--tiny] [--work DIR] [--json FILE]

The built-in model is as it ships, beside a torch UNet of its shape; the others have random weights in fp16, and torch
computes with the same. A step takes and returns NumPy arrays; what a prompt decides is the same in all steps. Ways take
turns: a round times some steps of each, and the figures are the median of a round's medians and their range. torch
needs diffusers, and so do the graphs of sd15 and sdxl. `--engine cpu --tiny` rehearses all of it without a GPU.

The exit status is 1 if a way failed, if its results differ from those of plain calls, or if no CUDA graph was captured.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import one_line, spread_of
from benchmarks.step_cases import CASES, Setup, prepared, tiny
from latentrt.device.cpu import processor
from latentrt.engines import engine_kind
from latentrt.engines.nvidia.cuda import current_device
from latentrt.engines.onnx.engine import BoundEngine, OnnxRuntimeEngine
from latentrt.engines.onnx.session import GRAPH_PROVIDERS, PROVIDERS
from latentrt.tensors import Array

ROOT = Path(__file__).parents[1]
WARM_UP = 5
# The lowest PSNR in dB: of calls of ONNX Runtime compared with plain ones, and of torch. fp32 is computed in TF32.
BOUND_GATE, TORCH_GATE = 60.0, 35.0
Step = Callable[[int], Array]


@dataclass
class Report:
    """Results. found: by section. failures: what failed."""

    found: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; None for an exception, which is recorded and printed."""
        print(f"... {name}", file=sys.stderr, flush=True)
        try:
            return work()
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            traceback.print_exc()
            return None


def main() -> int:
    """Times the cases and returns the exit status."""
    arguments = parsed()
    engine_kind(arguments.engine)
    report = Report({"machine": machine(arguments.engine), "batch": arguments.batch, "cases": {}})
    for name in arguments.cases or CASES:
        report.found["cases"][name] = report.attempt(name, lambda name=name: measured(name, arguments, report))
        gc.collect()
    report.found["failures"] = report.failures
    print(markdown(report.found))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.found, indent=2) + "\n", encoding="utf-8")
    return 1 if report.failures else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []], help=", ".join(CASES))
    parser.add_argument("--engine", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--ways", default=",".join(WAYS), help="which ways, and in which order")
    parser.add_argument("--batch", type=int, default=2, help="2: a picture with guidance")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="of each way in a round")
    parser.add_argument("--tiny", action="store_true", help="narrow UNets of small latents, for a rehearsal")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "steps", help="where graphs are kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.ways = arguments.ways.split(",")
    if unknown := set(arguments.ways) - WAYS.keys():
        parser.error(f"--ways: got {', '.join(sorted(unknown))}, expected some of {', '.join(WAYS)}")
    return arguments


def machine(engine: str) -> dict[str, object]:
    """The date, the device, and the versions."""
    packages = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "diffusers", "latentrt")
    device = current_device().name if engine == "cuda" else processor()
    found = {package: installed for package in packages if (installed := version_of(package))}
    return {"date": time.strftime("%Y-%m-%d"), "device": device, "python": platform.python_version(), **found}


def version_of(package: str) -> str:
    """The version of an installed package; "" for one that is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def measured(name: str, arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    """Seconds of a step in every way, and how far its results are from those of plain calls."""
    case = tiny(CASES[name]) if arguments.tiny else CASES[name]
    setup = prepared(
        case,
        f"{name}-tiny" if arguments.tiny else name,
        arguments.work,
        "onnxruntime" if arguments.engine == "cpu" else arguments.engine,
        batch=arguments.batch,
        torch=any(way.startswith("torch") for way in arguments.ways),
    )
    begun = {way: report.attempt(f"{name}, {way}", lambda way=way: first(WAYS[way], setup)) for way in arguments.ways}
    steps = {way: one[0] for way, one in begun.items() if one is not None}
    found: dict[str, Any] = {way: {"first_step_s": one[1]} for way, one in begun.items() if one is not None}
    for way, gate in compared(setup, steps, found).items():
        psnr = found[way]["psnr_db"]
        if psnr < gate:
            report.failures.append(f"{name}, {way}: got PSNR {psnr:.1f} dB, expected at least {gate:g}")
    for way, seconds in timed(steps, arguments.rounds, arguments.steps).items():
        found[way] |= {"step_s": spread_of(seconds), "rounds": [round(second, 6) for second in seconds]}
    if "graph" in steps:
        captured = found["graph"]["captured"] = is_captured(steps["graph"])
        if not captured:
            report.failures.append(f"{name}, graph: no CUDA graph was captured; see the log above")
    return found


def first(way: Callable[[Setup], Step | None], setup: Setup) -> tuple[Step, float] | None:
    """The step of a way, and the seconds of the first one; None for a way that the device does not have."""
    step = way(setup)
    return None if step is None else (step, second_of(step, 0))


def compared(setup: Setup, steps: Mapping[str, Step], found: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """The gate of every way that is compared with plain calls; adds its PSNR, the lowest of several steps."""
    gates = {"bound": BOUND_GATE, "graph": BOUND_GATE}
    if setup.same_weights:
        gates |= {"torch": TORCH_GATE, "torch-graph": TORCH_GATE}
    gates = {way: gate for way, gate in gates.items() if way in steps and "plain" in steps}
    expected = [steps["plain"](number) for number in range(2)] if gates else []
    for way in gates:
        found[way]["psnr_db"] = min(psnr_db(steps[way](number), expected[number % 2]) for number in range(4))
    return gates


def psnr_db(got: Array, expected: Array) -> float:
    """The peak signal-to-noise ratio in dB, of the largest expected value; 999 for equal arrays, -999 for no number."""
    if not np.isfinite(got).all():
        return -999.0
    error = float(np.square(got - expected, dtype=np.float64).mean())
    return 999.0 if error == 0 else 10 * float(np.log10(np.square(expected, dtype=np.float64).max() / error))


def timed(steps: Mapping[str, Step], rounds: int, count: int) -> dict[str, list[float]]:
    """The median seconds of a step in every round, by way. Each round begins with another way."""
    for step in steps.values():
        for number in range(WARM_UP):
            step(number)
    ways, seconds = list(steps), {way: list[float]() for way in steps}
    for turn in range(rounds):
        for way in [*ways[turn % len(ways) :], *ways[: turn % len(ways)]]:
            seconds[way].append(statistics.median(second_of(steps[way], number) for number in range(count)))
    return seconds


def second_of(step: Step, number: int) -> float:
    """The seconds of a step."""
    start = time.perf_counter()
    step(number)
    return time.perf_counter() - start


def plain(setup: Setup) -> Step:
    """Calls that copy all inputs and outputs."""
    return step_of(OnnxRuntimeEngine("unet", setup.component, setup.graph, setup.engine), setup)


def bound(setup: Setup) -> Step:
    """Calls whose constant inputs stay on the device."""
    return step_of(BoundEngine("unet", setup.component, setup.graph, setup.engine, graphs=False), setup)


def graph(setup: Setup) -> Step:
    """The same, replayed as a CUDA graph. On a CPU, which has none, the calls at fixed addresses that these need."""
    GRAPH_PROVIDERS.setdefault("onnxruntime", PROVIDERS["onnxruntime"])
    return step_of(BoundEngine("unet", setup.component, setup.graph, setup.engine), setup)


def step_of(engine: OnnxRuntimeEngine, setup: Setup) -> Step:
    """A step by an engine."""

    def step(number: int) -> Array:
        return np.asarray(engine(setup.feeds[number % len(setup.feeds)])["prediction"], np.float32)

    step.engine = engine  # type: ignore[attr-defined]
    engine.load()
    return step


def is_captured(step: Step) -> bool:
    """Whether an engine's steps are replays of a CUDA graph."""
    call = step.engine.bound  # type: ignore[attr-defined]
    return call is not None and bool(call.captured)


def torch_eager(setup: Setup) -> Step:
    """diffusers' UNet as it is, with the prompt on the device."""
    import torch

    def step(number: int) -> Array:
        with torch.inference_mode():
            sample = torch.from_numpy(setup.feeds[number % 2]["sample"]).to(setup.device, setup.context.dtype)
            found = setup.unet(sample, setup.timesteps[number % 2], setup.context).sample
            return np.asarray(found.float().cpu().numpy())

    return step


def torch_graph(setup: Setup) -> Step | None:
    """The same, replayed as a CUDA graph; None on a CPU."""
    import torch

    if setup.device == "cpu":
        return None
    sample = torch.from_numpy(setup.feeds[0]["sample"]).to("cuda", setup.context.dtype)
    timestep, stream = torch.tensor(setup.timesteps[0], device="cuda"), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    captured = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        with torch.cuda.stream(stream):  # a capture needs earlier calls in a separate stream
            for _ in range(2):
                setup.unet(sample, timestep, setup.context)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(captured):
            prediction = setup.unet(sample, timestep, setup.context).sample

    def step(number: int) -> Array:
        with torch.inference_mode():
            sample.copy_(torch.from_numpy(setup.feeds[number % 2]["sample"]))
            timestep.fill_(setup.timesteps[number % 2])
            captured.replay()
            return np.asarray(prediction.float().cpu().numpy())

    return step


WAYS: dict[str, Callable[[Setup], Step | None]] = {
    "plain": plain,
    "bound": bound,
    "graph": graph,
    "torch": torch_eager,
    "torch-graph": torch_graph,
}


def markdown(found: Mapping[str, Any]) -> str:
    """The table: milliseconds of a step, median of the rounds and their range."""
    ways = [way for way in WAYS if any(case and way in case for case in found["cases"].values())]
    lines = [
        *("", one_line(found["machine"]), ""),
        f"| UNet, batch {found['batch']} | " + " | ".join(f"{way}, ms" for way in ways) + " |",
        "|---" * (len(ways) + 1) + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(cell(case, way) for way in ways) + " |" for name, case in found["cases"].items()
    ]
    failures = [f"FAILED: {failure}" for failure in found["failures"]]
    return "\n".join([*lines, "", *(failures or ["all passed"])])


def cell(case: Mapping[str, Any] | None, way: str) -> str:
    """The milliseconds of a way; "-" where there are none."""
    if not case or "step_s" not in case.get(way, {}):
        return "-"
    seconds = case[way]["step_s"]
    return f"{1e3 * seconds['median']:.2f} ({1e3 * seconds['min']:.2f} to {1e3 * seconds['max']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
