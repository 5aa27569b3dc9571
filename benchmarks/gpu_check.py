"""Builds, runs, compares and times a bundle on an NVIDIA GPU, and prints tables in markdown to paste into the docs.

    python benchmarks/gpu_check.py BUNDLE [--engine tensorrt|tensorrt-rtx|cuda|cuda-tensorrt] [--steps N]
                                   [--size WxH] [--pictures N] [--iterations N] [--json FILE]

BUNDLE is a folder, or a built-in model's name. The CPU engine makes pictures first. The GPU is compared on the inputs
that every component had then: once in the first call, and again as a CUDA graph. If one component fails, the others are
still checked. The exit status is 1 if anything failed or missed its gate.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import latentrt
from latentrt.bundle.catalog import folder_of
from latentrt.engines import Engine
from latentrt.engines.nvidia.cuda import call, current_device, free_memory
from latentrt.engines.wrapped import Wrapped
from latentrt.pipeline.pipeline import Pipeline
from latentrt_calib.evaluate.metrics import psnr_db
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.fidelity import loss

Feeds = Mapping[str, np.ndarray]

# Minimum PSNR in dB of a component's outputs. fp32 is computed in TF32 on tensor cores.
COMPONENT_GATES = {"fp32": 50.0, "w16": 40.0, "fp16": 40.0, "int8": 30.0, "w8": 30.0, "w4": 30.0}
# Minimum PSNR in dB of a picture's pixels; differences add up over the steps.
PICTURE_GATE = 25.0
PROMPTS = ("a red apple", "a smiling face with sunglasses", "a blue butterfly", "a slice of pizza")
WARM_UP = 5


@dataclass
class Report:
    """Results. found: figures and table rows by section. failures: what failed."""

    found: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def attempt(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The results of `work`. An exception is recorded and printed, so that the other checks still run."""
        print(f"... {name}", file=sys.stderr, flush=True)
        try:
            return work()
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            traceback.print_exc()
            return {"error": str(error)}

    def gate(self, name: str, psnr: float | None, least: float) -> str:
        """Returns "pass" or "FAIL"; a failure is recorded. psnr: None if nothing differs."""
        if psnr is None or psnr >= least:
            return "pass"
        self.failures.append(f"{name}: got PSNR {psnr:.1f} dB, expected at least {least:g}")
        return "FAIL"


class Recorder(Wrapped):
    """An engine that keeps the feeds and outputs of its last call."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.feeds, self.outputs = {}, {}

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The engine's outputs."""
        self.outputs = super().__call__(feeds)
        self.feeds = {name: feed.copy() for name, feed in feeds.items()}
        return self.outputs


def main() -> int:
    """Runs every check and returns the exit status."""
    arguments = parsed()
    report = Report()
    report.found["machine"] = report.attempt("machine", machine)
    if not report.failures:
        check(arguments, report)
    report.found["failures"] = report.failures
    print(markdown(report.found))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.found, indent=2) + "\n", encoding="utf-8")
    return 1 if report.failures else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--engine", default="tensorrt", choices=["tensorrt", "tensorrt-rtx", "cuda", "cuda-tensorrt"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", help="such as 512x512; default: the bundle's size")
    parser.add_argument("--pictures", type=int, default=2, choices=range(1, len(PROMPTS) + 1))
    parser.add_argument("--iterations", type=int, default=50, help="repetitions of each timed call")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """The GPU and the versions. Raises EngineError without a GPU."""
    device = current_device()
    driver, runtime = call("cudaDriverGetVersion"), call("cudaRuntimeGetVersion")
    _, total = free_memory()
    return {
        "gpu": device.name,
        "sm": device.sm,
        "memory_gb": round(total / 1e9, 1),
        "cuda_driver": driver,
        "cuda_runtime": runtime,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def check(arguments: argparse.Namespace, report: Report) -> None:
    """Fills the report for one bundle and one engine."""
    found, folder = report.found, folder_of(arguments.bundle)
    width, height = map(int, arguments.size.split("x")) if arguments.size else (None, None)
    options = {"steps": arguments.steps, "width": width, "height": height}
    cpu = latentrt.load(folder, engine="cpu")
    found["bundle"] = {
        "name": cpu.bundle.manifest.name,
        "sha256": cpu.bundle.sha256,
        "precision": {name: component.precision for name, component in cpu.bundle.manifest.components.items()},
        "engine": arguments.engine,
    }
    recorders = {name: Recorder(engine) for name, engine in cpu.engines.items()}
    feed_shallow(cpu.with_engines(recorders), options)
    expected = pictures(cpu.with_engines(recorders), arguments.pictures, options)
    feed_encoder(recorders)
    cpu.close()
    if arguments.engine.startswith("tensorrt"):
        size = (width, height) if width else None
        found["plans"] = report.attempt("build", lambda: built(arguments.bundle, arguments.engine, size))
    with latentrt.load(folder, engine=arguments.engine, verify=False) as gpu:
        before = free_memory()[0]
        found["components"] = {
            name: report.attempt(name, lambda name=name: component(gpu, name, recorders[name], report))
            for name in recorders
        }
        found["unet"] = {
            str(batch): report.attempt(
                f"UNet, batch {batch}",
                lambda batch=batch: timed_unet(gpu, recorders["unet"], batch, arguments.iterations),
            )
            for batch in (1, 2)
        }
        found["pictures"] = report.attempt("pictures", lambda: compared(gpu, expected, options, report))
        found["memory"] = report.attempt("memory", lambda: used(gpu, before))


def pictures(pipeline: Pipeline, count: int, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The pixels of each prompt's picture."""
    return {prompt: np.asarray(pipeline.generate(prompt, seed=7, **options).images[0]) for prompt in PROMPTS[:count]}


def feed_shallow(pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Calls the shallow UNet, if there is one, which only a step cache uses."""
    if pipeline.bundle.manifest.shallow is not None:
        pipeline.generate(PROMPTS[0], seed=7, **{**options, "steps": 3, "cache": (0,)})


def feed_encoder(recorders: Mapping[str, Recorder]) -> None:
    """Calls the VAE encoder, which text to image does not use, with the decoder's picture."""
    if "vae_encoder" in recorders and "vae_decoder" in recorders:
        image = recorders["vae_decoder"].outputs["image"]
        [spec] = recorders["vae_encoder"].engine.component.inputs
        recorders["vae_encoder"]({spec.name: np.clip(image, -1, 1).astype(spec.dtype)})


def built(bundle: str, engine: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Seconds and bytes of every component's plan."""
    gpus = (current_device().sm,) if engine == "tensorrt-rtx" else ()
    options = BuildOptions(engine, gpus=gpus, sizes=(size,) if size else ())
    plans = build(bundle, options, lines=lambda line: print(f"    {line}", file=sys.stderr, flush=True))
    return {plan.component: {"floats": plan.floats, "bytes": plan.bytes, "build_s": plan.seconds} for plan in plans}


def component(pipeline: Pipeline, name: str, recorded: Recorder, report: Report) -> dict[str, Any]:
    """Load time, time per call, and PSNR compared with the CPU: of the first call, and of the third (a CUDA graph)."""
    engine, precision = pipeline.engines[name], pipeline.bundle.manifest.components[name].precision
    start = time.perf_counter()
    engine.load()
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    calls = [engine(recorded.feeds)]
    first_s = time.perf_counter() - start
    calls += [engine(recorded.feeds) for _ in range(2)]
    psnr = lowest(loss(got[key], reference, "").psnr_db for got in calls for key, reference in recorded.outputs.items())
    gate = COMPONENT_GATES[precision]
    return {
        "precision": precision,
        "load_s": load_s,
        "first_call_s": first_s,
        "psnr_db": psnr,
        "gate_db": gate,
        "passes": report.gate(name, psnr, gate),
        **times(lambda: engine(recorded.feeds), engine, 10),
    }


def timed_unet(pipeline: Pipeline, recorded: Recorder, batch: int, iterations: int) -> dict[str, Any]:
    """Milliseconds per UNet call at this batch, with and without a CUDA graph."""
    engine = pipeline.engines["unet"]
    feeds = {name: np.array(np.resize(feed, (batch, *feed.shape[1:]))) for name, feed in recorded.feeds.items()}
    for feed in feeds.values():
        feed.flags.writeable = False
    # Only the latents change from step to step.
    samples = [feeds["sample"].copy() for _ in range(2)]
    turn = iter(range(1 << 30))

    def step() -> dict[str, np.ndarray]:
        return engine({**feeds, "sample": samples[next(turn) % 2]})

    with_graph = times(step, engine, iterations)
    if not hasattr(engine, "last"):
        return {"graph": with_graph}
    profile = engine.last
    captured = profile.graph is not None
    profile.drop_graph()
    profile.capturable = False
    without = times(step, engine, iterations)
    profile.capturable = True
    return {"captured": captured, "graph": with_graph, "eager": without}


def times(run: Callable[[], Any], engine: Engine, iterations: int) -> dict[str, float | None]:
    """Median milliseconds of the whole call, with copies and Python, and of the GPU's part alone."""
    for _ in range(WARM_UP):
        run()
    whole, device = [], []
    for _ in range(iterations):
        start = time.perf_counter()
        run()
        whole.append(1e3 * (time.perf_counter() - start))
        if hasattr(engine, "device_ms"):
            device.append(engine.device_ms)
    return {
        "call_ms": statistics.median(whole),
        "call_ms_p90": statistics.quantiles(whole, n=10)[-1],
        "device_ms": statistics.median(device) if device else None,
    }


def compared(
    pipeline: Pipeline, expected: Mapping[str, np.ndarray], options: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """PSNR of each picture compared with the CPU's, and the seconds of its phases with everything loaded."""
    rows = {}
    for prompt, reference in expected.items():
        result = pipeline.generate(prompt, seed=7, **options)
        psnr = psnr_db(np.asarray(result.images[0]), reference)
        psnr = None if psnr == float("inf") else psnr
        passes = report.gate(f"picture of {prompt!r}", psnr, PICTURE_GATE)
        rows[prompt] = {"psnr_db": psnr, "gate_db": PICTURE_GATE, "passes": passes, "seconds": result.timings}
    return rows


def used(pipeline: Pipeline, before: int) -> dict[str, Any]:
    """GPU memory in MB: of all components loaded together, of activations, and freed afterwards."""
    gpu = getattr(next(iter(pipeline.engines.values())), "gpu", None)
    arena = gpu.arena.size if gpu is not None and gpu.arena else 0
    loaded = free_memory()[0]
    pipeline.close()
    return {
        "loaded_mb": (before - loaded) / 1e6,
        "activations_mb": arena / 1e6,
        "left_after_close_mb": (before - free_memory()[0]) / 1e6,
    }


def lowest(psnrs: Iterable[float | None]) -> float | None:
    """The lowest value. None means equal and is ignored."""
    return min((psnr for psnr in psnrs if psnr is not None), default=None)


def markdown(found: Mapping[str, Any]) -> str:
    """The report's tables."""
    about, bundle = found["machine"], found.get("bundle", {})
    lines = ["", ", ".join(f"{key} {value}" for key, value in about.items())]
    if bundle:
        lines += ["", f"{bundle['name']} on {bundle['engine']}"]
    if found.get("components"):
        lines += component_table(found["components"], found.get("plans", {}))
    if found.get("unet"):
        lines += unet_table(found["unet"])
    if found.get("pictures"):
        lines += [
            "",
            "| picture | PSNR against the CPU, dB | gate | text, s | UNet, s | decoder, s |",
            "|" + "---|" * 6,
        ]
        for prompt, row in found["pictures"].items():
            if isinstance(row, dict):
                seconds = " | ".join(
                    cell(row["seconds"].get(phase), 3) for phase in ("text_encoder", "unet", "vae_decoder")
                )
                lines.append(f"| {prompt} | {decibels(row['psnr_db'])} | {row['passes']} | {seconds} |")
    if memory := found.get("memory"):
        lines += ["", ", ".join(f"{key} {cell(value, 1)}" for key, value in memory.items())]
    lines += ["", *(f"FAILED: {failure}" for failure in found["failures"])] if found["failures"] else ["", "all passed"]
    return "\n".join(lines)


def component_table(components: Mapping[str, Any], plans: Mapping[str, Any]) -> list[str]:
    """A row for each component."""
    lines = [
        "",
        "| component | precision | plan, MB | built, s | loaded, s | first call, s | call, ms | on the GPU, ms "
        "| PSNR, dB | gate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in components.items():
        plan = plans.get(name)
        plan = plan if isinstance(plan, dict) else {}
        if "error" in row:
            lines.append(f"| {name} | failed: {row['error'].splitlines()[0][:200]} |" + " |" * 8)
            continue
        size = plan["bytes"] / 1e6 if plan else None
        lines.append(
            f"| {name} | {plan.get('floats', row['precision'])} | {cell(size, 1)} | {cell(plan.get('build_s'), 1)} | "
            f"{cell(row['load_s'], 2)} | {cell(row['first_call_s'], 2)} | {cell(row['call_ms'], 3)} | "
            f"{cell(row['device_ms'], 3)} | {decibels(row['psnr_db'])} | {row['passes']} |"
        )
    return lines


def unet_table(batches: Mapping[str, Any]) -> list[str]:
    """A row per UNet batch, that is, per step of a picture."""
    lines = [
        "",
        "| UNet, batch | graph: GPU, ms | graph: call, ms | no graph: GPU, ms | no graph: call, ms |",
        "|---|---|---|---|---|",
    ]
    for batch, row in batches.items():
        graph, eager = row.get("graph", {}), row.get("eager", {})
        if not row.get("captured", True):
            batch += " (not captured)"
        figures = (side.get(name) for side in (graph, eager) for name in ("device_ms", "call_ms"))
        lines.append(f"| {batch} | " + " | ".join(cell(figure, 3) for figure in figures) + " |")
    return lines


def cell(figure: float | str | None, digits: int) -> str:
    """A figure for a table."""
    return f"{figure:.{digits}f}" if isinstance(figure, int | float) else "-"


def decibels(psnr: float | None) -> str:
    """A PSNR for a table."""
    return "equal" if psnr is None else f"{psnr:.1f}"


if __name__ == "__main__":
    sys.exit(main())
