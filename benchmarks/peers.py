"""Times this package beside its peers: the same random weights of Stable Diffusion 1.5's shape, runs interleaved.

    python -m benchmarks.peers [--work DIR] [--rounds 3] [--steps 4] [--rows diffusers-fp32,...] [--json FILE]
                               [--html FILE] [--prepare]

Every peer lives in a virtual environment of its own and is driven as its documentation shows, 512x512 with guidance. A
run is a process: it loads, draws a picture of one step, then one of --steps; each round runs every row once, so that
what the machine does beside hits all alike. Seconds a step are the median between the ends of steps.
Environments, checkpoints and exports stay in the work folder (about 40 GB); --prepare makes them and stops.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.calibrate_sd15 import bundle_of, calibrated
from benchmarks.export_sd15 import ROOT
from benchmarks.machine import machine, one_line
from latentrt.page.document import html
from latentrt.page.plots import Mark, bars

DRIVERS = Path(__file__).parent / "peer_drivers"
TORCH = "torch==2.13.0"  # of PyPI's builds for Linux, an open range brings CUDA


@dataclass(frozen=True)
class Home:
    """Where a peer is installed.

    packages: for its environment; none for this one. without: what they bring that keeps them from loading.
    """

    name: str
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def python(self, work: Path) -> Path:
        """Its interpreter, the environment made if it is not there. Raises CalledProcessError if that fails."""
        if not self.packages:
            return Path(sys.executable)
        folder = work / f"venv-{self.name}"
        ready, python = folder / "ready", folder / "bin" / "python"
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            run([sys.executable, "-m", "venv", folder])
            for packages in ([TORCH], self.packages) if TORCH in self.packages else (self.packages,):
                run([python, "-m", "pip", "-q", "install", *packages])
            if self.without:
                run([python, "-m", "pip", "-q", "uninstall", "--yes", *self.without])
            ready.touch()
        return python

    def megabytes(self, work: Path) -> float | None:
        """What is installed, without pip; None for this environment, which has more in it than the package."""
        if not self.packages:
            return None
        site = next((work / f"venv-{self.name}" / "lib").glob("python*/site-packages"))
        files = (path for path in site.rglob("*") if path.is_file() and path.relative_to(site).parts[0] != "pip")
        return sum(path.stat().st_size for path in files) / 1e6


DIFFUSERS = Home("diffusers", (TORCH, "diffusers==0.42.1", "transformers==5.23.0", "accelerate"))
OPTIMUM = Home("optimum", (TORCH, "optimum-onnx[onnxruntime]==0.1.0", "diffusers", "onnx"))
GENAI = Home(
    "genai",
    (TORCH, "openvino-genai==2026.4.1.0", "optimum-intel[openvino]==2.2.0", "diffusers"),
    without=("torchvision",),  # its build for CUDA does not load beside torch's for CPUs
)
TASK = ("--task", "text-to-image")
SDCPP = Home("sdcpp", ("stable-diffusion-cpp-python==0.4.7",))
OURS = Home("latentrt")


@dataclass(frozen=True)
class Row:
    """One line of the table. model: makes, once, what the driver loads. needs: a flag of the processor, "" for none."""

    key: str
    name: str
    home: Home
    driver: str
    variant: str
    precision: str
    model: Callable[[Path], Path]
    needs: str = ""


def run(command: Sequence[object]) -> None:
    """Runs a command, its output on stderr. Raises CalledProcessError if it fails."""
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, stdout=sys.stderr)


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """The path, made under another name first if it is not there: what was begun is not taken for done."""
    if not path.exists():
        temporary = path.with_name(f"making-{path.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        make(temporary)
        temporary.rename(path)
    return path


def checkpoint(name: str) -> Callable[[Path], Path]:
    """The checkpoint under that name: a diffusers folder, or one file where it ends with .safetensors."""

    def model(work: Path) -> Path:
        path = work / name
        if not path.exists():
            run([sys.executable, "-m", "benchmarks.checkpoint", path])
        return path

    return model


single_file, folder = checkpoint("sd15.safetensors"), checkpoint("sd15")


def onnx(work: Path) -> Path:
    """The folder as optimum-onnx exports it."""
    tool = OPTIMUM.python(work).with_name("optimum-cli")
    return once(work / "sd15-onnx", lambda path: run([tool, "export", "onnx", "--model", folder(work), *TASK, path]))


def openvino(weights: str) -> Callable[[Path], Path]:
    """The folder as optimum-intel exports it, its weights in that format."""

    def model(work: Path) -> Path:
        command = ["export", "openvino", "--model", folder(work), "--weight-format", weights, *TASK]
        tool = GENAI.python(work).with_name("optimum-cli")
        return once(work / f"sd15-openvino-{weights}", lambda path: run([tool, *command, path]))

    return model


def float_bundle(work: Path) -> Path:
    """Our bundle in fp32, with graphs for this processor."""
    single_file(work)
    return built(bundle_of(work, "fp32", 512))


def int8_bundle(work: Path) -> Path:
    """Our bundle in INT8, with graphs for this processor: all layers, since random weights keep no picture."""
    out = work / "int8-cpu"
    if not out.exists():
        single_file(work)
        calibrated(bundle_of(work, "fp32", 64), out, "cpu", 1, 2)
    return built(out)


def built(bundle: Path) -> Path:
    """The bundle, optimised for this processor."""
    run([sys.executable, "-m", "latentrt", "build", bundle, "--target", "cpu"])
    return bundle


ROWS = (
    Row("diffusers-fp32", "diffusers, torch", DIFFUSERS, "diffusers", "float32", "fp32", folder),
    Row("diffusers-bf16", "diffusers, torch", DIFFUSERS, "diffusers", "bfloat16", "bf16", folder, needs="avx512_bf16"),
    Row("optimum-fp32", "optimum-onnx, ONNX Runtime", OPTIMUM, "optimum", "", "fp32", onnx),
    Row("genai-fp32", "OpenVINO GenAI", GENAI, "genai", "", "its own, from fp32", openvino("fp32")),
    Row("genai-int8", "OpenVINO GenAI", GENAI, "genai", "", "its own, weights in int8", openvino("int8")),
    Row("sdcpp-f16", "stable-diffusion.cpp", SDCPP, "sdcpp", "f16", "weights in f16", single_file),
    Row("sdcpp-q8_0", "stable-diffusion.cpp", SDCPP, "sdcpp", "q8_0", "weights in q8_0", single_file),
    Row("ort-fp32", "latentrt, ONNX Runtime", OURS, "latentrt", "onnxruntime", "fp32", float_bundle),
    Row("openvino-fp32", "latentrt, OpenVINO", OURS, "latentrt", "openvino", "fp32", float_bundle),
    Row("ort-int8", "latentrt, ONNX Runtime", OURS, "latentrt", "onnxruntime", "INT8", int8_bundle),
    Row("openvino-int8", "latentrt, OpenVINO", OURS, "latentrt", "openvino", "INT8", int8_bundle),
)


@dataclass(frozen=True)
class Sample:
    """One process, in seconds and bytes. ready: to the end of a first picture of one step. picture: of --steps."""

    ready: float
    step: float
    picture: float
    peak: int


def driven(row: Row, work: Path, steps: int) -> Sample:
    """Runs a row once. Raises RuntimeError if it fails or reports no steps."""
    command = [row.home.python(work), DRIVERS / f"{row.driver}_driver.py", row.model(work), row.variant, "1", steps]
    start = time.monotonic()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not printed:
        raise RuntimeError(f"{row.key}: exit status {process.returncode}")
    first, last = json.loads(printed[-1])
    ends = last["steps"]
    if len(ends) < steps:
        raise RuntimeError(f"{row.key}: got {len(ends)} steps reported, expected {steps}")
    step = statistics.median(later - earlier for earlier, later in pairwise(ends))
    return Sample(first["end"] - start, step, last["end"] - last["start"], usage.ru_maxrss * 1024)


def able(row: Row) -> bool:
    """Whether the processor has what the row needs."""
    return not row.needs or row.needs in Path("/proc/cpuinfo").read_text().split()


def table(samples: Mapping[Row, Sequence[Sample]], sizes: Mapping[Home, float | None], steps: int) -> str:
    """The rows in Markdown; ratios are to the least median step among the peers."""
    peers = [middle(found, "step") for row, found in samples.items() if row.home is not OURS]
    best = min(peers) if peers else None
    lines = [
        f"| | precision | s a step, median (least to most) | of the best peer's | s a picture, {steps} steps "
        "| s to the first picture, one step | peak GB | installed MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, found in samples.items():
        every = [one.step for one in found]
        size = sizes[row.home]
        cells = (
            row.name,
            row.precision,
            f"{statistics.median(every):.2f} ({min(every):.2f} to {max(every):.2f})",
            f"{middle(found, 'step') / best:.2f}" if best else "",
            f"{middle(found, 'picture'):.1f}",
            f"{middle(found, 'ready'):.1f}",
            f"{max(one.peak for one in found) / 1e9:.1f}",
            f"{size:.0f}" if size is not None else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def middle(found: Sequence[Sample], field: str) -> float:
    """The median of one figure."""
    return statistics.median(getattr(one, field) for one in found)


def chart(samples: Mapping[Row, Sequence[Sample]]) -> str:
    """A bar a row: seconds a step, ours in another colour."""
    rows = []
    for row, found in sorted(samples.items(), key=lambda item: middle(item[1], "step")):
        step = middle(found, "step")
        title = f"{row.name}, {row.precision}: {step:.2f} s a step, {max(one.peak for one in found) / 1e9:.1f} GB"
        rows.append((title, [Mark(step, title, "one" if row.home is OURS else "quiet")]))
    return bars(rows, "seconds a step, medians")


def main() -> None:
    """Prepares what is missing, runs the rounds, prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", default=",".join(row.key for row in ROWS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--prepare", action="store_true", help="install and export what is missing, and stop")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if row.key in given.rows.split(",") and able(row)]
    for row in rows:
        print(f"{row.key}: {row.home.python(work)} {row.model(work)}", file=sys.stderr, flush=True)
    if given.prepare:
        return
    sizes = {row.home: row.home.megabytes(work) for row in rows}
    samples: dict[Row, list[Sample]] = {row: [] for row in rows}
    about = machine()
    for number in range(given.rounds):
        for row in rows:
            samples[row].append(driven(row, work, given.steps))
            print(f"round {number + 1}: {row.key}: {samples[row][-1]}", file=sys.stderr, flush=True)
        text = f"{one_line(about)}; {number + 1} rounds\n\n{table(samples, sizes, given.steps)}\n"
        print(text, flush=True)
        if given.json:
            found = {row.key: [asdict(one) for one in every] for row, every in samples.items()}
            given.json.write_text(json.dumps({"machine": about, "samples": found}, indent=2) + "\n")
        if given.html:
            given.html.write_text(html("Stable Diffusion 1.5, 512x512 with guidance", [chart(samples)]))


if __name__ == "__main__":
    main()
