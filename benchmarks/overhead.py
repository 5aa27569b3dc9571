"""Times a step without its engine (sampler, guidance, bookkeeping), and separately the generation of noise.

    python -m benchmarks.overhead [--runs 20] [--noise-runs 3] [--samplers ddim,unipc] [--cold] [--json FILE]

A real pipeline runs with stub engines, which check their inputs and return at once, in Stable Diffusion 1.5's sizes:
latents of 4x64x64, guidance on, so a UNet call has two rows per image. Noise is precomputed here, and timed separately.
A sample is one step. The first step of each run is not among them; it is reported with everything before it: prompts,
grid, conditioning. With --cold, each engine call overwrites the processor's caches, untimed, as a real call would.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.machine import machine, one_line, spread_of
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.bundle.manifest import Component, Manifest
from latentrt.pipeline import pipeline as pipelines
from latentrt.pipeline.load import load_tokenizer
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve
from latentrt.sampling.noise.source import NoiseName, NoiseSource
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule
from latentrt.sampling.step import Noise
from latentrt.tensors import Array, TensorSpec, check

TOKENS, CONTEXT, SIDE_PX = 77, 768, 512
# Channels of Stable Diffusion 1.5's UNet, from its public config (export/latentrt_export/configs/sd15/unet.json): of
# its 16 cross-attentions (down, middle, up), each with keys and values; and of its 22 ResNets.
KV_WIDTH = 2 * (2 * (320 + 640 + 1280) + 1280 + 3 * (1280 + 640 + 320))
BIAS_WIDTH = 2 * (320 + 640 + 1280 + 1280) + 2 * 1280 + 3 * (1280 + 1280 + 640 + 320)
SCHEDULE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "first")
WIDTHS = {"context": CONTEXT, "cross_kv": KV_WIDTH, "time_bias": BIAS_WIDTH}
STEPS, BATCHES, DTYPES = (20, 50), (1, 2), ("float32", "float16")
CACHES_BYTES = 64 << 20


@dataclass(frozen=True)
class Case:
    """One row of the first table."""

    sampler: str
    dtype: str
    batch: int
    steps: int


@dataclass(frozen=True)
class NoiseCase:
    """One row of the second table. kind: "white" noise, or "path" (Brownian). generator: source of the normals."""

    kind: str
    generator: NoiseName
    batch: int
    steps: int


class StubEngine:
    """Replaces a component's engine: checks its feeds like a real one, and returns stored outputs."""

    def __init__(self, name: str, component: Component, outputs: Mapping[str, Array], scratch: Array) -> None:
        self.name, self.component, self.outputs, self.scratch = name, component, outputs, scratch
        self.seconds = 0.0  # time of overwriting the caches, subtracted from the steps

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The same outputs every time, with as many rows as the feeds."""
        check(self.component.inputs, feeds, self.name)
        start = time.perf_counter()
        self.scratch += 1
        self.seconds += time.perf_counter() - start
        rows = len(next(iter(feeds.values())))
        return {name: output[:rows] for name, output in self.outputs.items()}

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def close(self) -> None:
        """Nothing to close."""


class ReadyNoise(NoiseSource):
    """Precomputed noise, the same for every draw."""

    def __init__(self, settings: Settings, shape: tuple[int, int, int]) -> None:
        super().__init__(settings.noise, shape)
        self.ready = NoiseSource.normal(self, 0.0, 0.0)

    def normal(self, _sigma: float, _sigma_next: float) -> Array:
        """The precomputed normals."""
        return self.ready

    def brownian(self, _grid: object) -> Noise:
        """The same normals along any path."""
        return self.normal


def manifest_of(manifest: Manifest, dtype: str) -> Manifest:
    """The built-in model's manifest in Stable Diffusion 1.5's widths and an engine's float type."""

    def resized(spec: TensorSpec) -> TensorSpec:
        shape = (*spec.shape[:-1], WIDTHS[spec.name]) if spec.name in WIDTHS else spec.shape
        return replace(spec, shape=shape, dtype=dtype if spec.dtype == "float32" else spec.dtype)

    components = {
        name: replace(part, inputs=tuple(map(resized, part.inputs)), outputs=tuple(map(resized, part.outputs)))
        for name, part in manifest.components.items()
    }
    return replace(manifest, components=components, schedule=SCHEDULE)


def stub_pipeline(dtype: str, *, cold: bool, flow: bool) -> Pipeline:
    """A real pipeline with stub engines. flow: for a model that predicts a flow."""
    bundle = open_bundle(MODELS / "emoji", verify=False)
    manifest = manifest_of(bundle.manifest, dtype)
    if flow:
        manifest = replace(manifest, schedule=replace(SCHEDULE, prediction="flow_prediction", shift=3.0))
    random, side = np.random.default_rng(0), SIDE_PX // manifest.latents.factor
    answers = {
        "text_encoder": {"context": (2, TOKENS, CONTEXT)},
        "cross_kv": {"cross_kv": (2, TOKENS, KV_WIDTH)},
        "time_bias": {"time_bias": (2 * max(STEPS), BIAS_WIDTH)},
        "unet": {"prediction": (2 * max(BATCHES), manifest.latents.channels, side, side)},
        "vae_decoder": {"image": (1, 3, SIDE_PX, SIDE_PX)},
    }
    scratch = np.zeros(CACHES_BYTES if cold else 0, np.uint8)
    engines = {
        name: StubEngine(
            name,
            manifest.components[name],
            {key: random.standard_normal(shape, np.float32).astype(dtype) for key, shape in outputs.items()},
            scratch,
        )
        for name, outputs in answers.items()
    }
    bundle = replace(bundle, manifest=manifest)
    return Pipeline(bundle, load_tokenizer(bundle), engines, "stub")


def request_of(case: Case | NoiseCase, sampler: str, noise: NoiseName = "cpu") -> Request:
    """The request: a guided picture at the family's size."""
    return Request(
        "a red apple", "blurred", case.steps, 7.5, 1, SIDE_PX, SIDE_PX, sampler, batch=case.batch, noise=noise
    )


def step_times(pipeline: Pipeline, request: Request) -> list[float]:
    """Milliseconds of each step of one run, without the engines' time. The first includes everything before it."""
    engines = [engine for engine in pipeline.engines.values() if isinstance(engine, StubEngine)]
    times = []
    with mock.patch.object(pipelines, "NoiseSource", ReadyNoise):
        before, start = sum(engine.seconds for engine in engines), time.perf_counter()
        run = pipeline.steps(request)
        while len(times) < run.settings.steps:
            next(run)
            end, after = time.perf_counter(), sum(engine.seconds for engine in engines)
            times.append(1000 * (end - start - (after - before)))
            before, start = after, time.perf_counter()
    return times


def measured_steps(pipeline: Pipeline, case: Case, runs: int) -> dict[str, object]:
    """Statistics of one case over all steps of `runs` runs, after one that is not counted."""
    request = request_of(case, case.sampler)
    step_times(pipeline, request)
    times = [step_times(pipeline, request) for _ in range(runs)]
    start, rest = [run[0] for run in times], [step for run in times for step in run[1:]]
    return {**asdict(case), "samples": len(rest), "step_ms": spread_of(rest), "start_ms": spread_of(start)}


def measured_noise(manifest: Manifest, case: NoiseCase, runs: int) -> dict[str, object]:
    """Statistics of one kind of noise over all draws of `runs` runs. A path's first draw also builds the tree."""
    settings = resolve(request_of(case, "dpmpp_2m_sde", case.generator), manifest)
    grid = SAMPLERS["dpmpp_2m_sde"].grid(SCHEDULE, settings.steps, settings.schedule.spacing, settings.schedule.sigmas)
    side, times = SIDE_PX // manifest.latents.factor, []
    for _ in range(runs):
        draws = NoiseSource(settings.noise, (manifest.latents.channels, side, side))
        noise = draws.white if case.kind == "white" else draws.path(grid)
        for sigma, sigma_next in zip(grid.sigmas[:-1].tolist(), grid.sigmas_next[:-1].tolist(), strict=True):
            start = time.perf_counter()
            noise(sigma, sigma_next)
            times.append(1000 * (time.perf_counter() - start))
    return {**asdict(case), "samples": len(times), "draw_ms": spread_of(times)}


def all_steps(samplers: list[str], runs: int, *, cold: bool) -> Iterator[dict[str, object]]:
    """The first table, row by row."""
    for dtype, flow in itertools.product(DTYPES, (False, True)):
        pipeline = stub_pipeline(dtype, cold=cold, flow=flow)
        for name, batch, steps in itertools.product(samplers, BATCHES, STEPS):
            if SAMPLERS[name].flow == flow:
                yield measured_steps(pipeline, Case(name, dtype, batch, steps), runs)


def all_noise(runs: int) -> Iterator[dict[str, object]]:
    """The second table, row by row."""
    manifest = open_bundle(MODELS / "emoji", verify=False).manifest
    generators: tuple[NoiseName, ...] = ("cpu", "cuda")
    for kind, generator, batch, steps in itertools.product(("white", "path"), generators, BATCHES, STEPS):
        yield measured_noise(manifest, NoiseCase(kind, generator, batch, steps), runs)


def printed(title: str, rows: Iterator[dict[str, object]]) -> list[dict[str, object]]:
    """Prints each row as a line of Markdown, with the keys of the first as the head; returns the rows."""
    found = []
    for row in rows:
        if not found:
            cells = [f"{key} min / median / p90 / max" if isinstance(row[key], dict) else key for key in row]
            print(f"\n{title}\n\n| {' | '.join(cells)} |\n|{'---|' * len(cells)}")
        texts = (
            " / ".join(f"{x:.2f}" for x in cell.values()) if isinstance(cell, dict) else str(cell)
            for cell in row.values()
        )
        print(f"| {' | '.join(texts)} |", flush=True)
        found.append(row)
    return found


def main() -> None:
    """Measures and prints both tables, and writes them as JSON if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--noise-runs", type=int, default=3)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = {**machine(), "caches": "cold" if arguments.cold else "warm"}
    print(one_line(about))
    samplers = [name for name in arguments.samplers.split(",") if name]
    steps = printed("A step without its engine and its noise", all_steps(samplers, arguments.runs, cold=arguments.cold))
    noise = printed("One draw of noise", all_noise(arguments.noise_runs)) if arguments.noise_runs else []
    if arguments.json:
        document = {"machine": about, "steps": steps, "noise": noise}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
