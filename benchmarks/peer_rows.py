"""The compared packages: environment, model files (made once), and driver of each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import klein_file
from benchmarks.calibrate_sd15 import calibrated, sized
from benchmarks.export_sd15 import ROOT
from benchmarks.transformers import MODELS as TRANSFORMERS
from benchmarks.transformers import save
from latentrt_export.step_cache import add_step_cache

TORCH = "torch==2.13.0"  # with an open range, PyPI's builds for Linux bring CUDA
CAREFUL, FAST = 2, 1  # boundaries of step caching
ORT_CACHED, OPENVINO_CACHED = (f"latentrt, {engine}, --cache 3" for engine in ("ONNX Runtime", "OpenVINO"))
ORT = "latentrt, ONNX Runtime"
FASTER = f"{OPENVINO_CACHED}, boundary {FAST}"
FOUR = "weights in 4 bits"


@dataclass(frozen=True)
class Model:
    """A compared model. guidance: 1 is none."""

    name: str
    guidance: float


SD15, SDXL, KLEIN = "sd15", "sdxl", ("klein-fifth", "klein")
MODELS = {
    SD15: Model("Stable Diffusion 1.5", 7.5),
    SDXL: Model("SDXL", 7.5),
    "klein-fifth": Model("FLUX.2 klein 4B, a fifth of its blocks", 1.0),
    "klein": Model("FLUX.2 klein 4B", 1.0),
}


@dataclass(frozen=True)
class Home:
    """The environment of a package.

    packages: installed into a new environment; empty for the current one. without: dependencies to remove, because they
    prevent loading.
    """

    name: str
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def python(self, work: Path) -> Path:
        """The environment's interpreter; makes a missing environment. Raises CalledProcessError if that fails."""
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
        """Installed size without pip; None for the current environment, which has other packages too."""
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
    without=("torchvision",),  # its CUDA build does not load with torch's CPU build
)
TASK = ("--task", "text-to-image")
SDCPP = Home("sdcpp", ("stable-diffusion-cpp-python==0.4.7",))
OURS = Home("latentrt")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    files: makes the driver's model files once, from the work folder and a model's name. models: supported models.
    needs: a required processor flag, "" for none.
    """

    key: str
    name: str
    home: Home
    driver: str
    variant: str
    precision: str
    files: Callable[[Path, str], Path]
    models: tuple[str, ...] = (SD15,)
    needs: str = ""

    def runs(self, model: str) -> bool:
        """True if the row supports the model and the processor has the required flag."""
        able = not self.needs or self.needs in Path("/proc/cpuinfo").read_text().split()
        return able and model in self.models


def run(command: Sequence[object]) -> None:
    """Runs a command with its output on stderr. Raises CalledProcessError if it fails."""
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, stdout=sys.stderr)


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """The path. If missing, it is made under a temporary name first, so that an unfinished one is never used."""
    if not path.exists():
        temporary = path.with_name(f"making-{path.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        make(temporary)
        temporary.rename(path)
    return path


def checkpoint(suffix: str) -> Callable[[Path, str], Path]:
    """The model's checkpoint: one file if the suffix is .safetensors, otherwise a diffusers folder."""

    def files(work: Path, model: str) -> Path:
        path = work / f"{model}{suffix}"
        if not path.exists():
            run([sys.executable, "-m", "benchmarks.checkpoint", path, "--model", model])
        return path

    return files


single_file = checkpoint(".safetensors")


def folder(work: Path, model: str) -> Path:
    """The model's checkpoint as a folder of diffusers."""
    if model in KLEIN:
        return once(work / model, lambda path: save(TRANSFORMERS[model], path))
    return checkpoint("")(work, model)


def with_original(work: Path, model: str) -> Path:
    """The folder of FLUX.2 klein with its transformer in the original layout, too."""
    found = folder(work, model)
    once(found / "original.safetensors", lambda path: klein_file.write(found, path))
    return found


def onnx(work: Path, model: str) -> Path:
    """The model as exported by optimum-onnx."""
    command = ["export", "onnx", "--model", folder(work, model), *TASK]
    tool = OPTIMUM.python(work).with_name("optimum-cli")
    return once(work / f"{model}-onnx", lambda path: run([tool, *command, path]))


def openvino(weights: str) -> Callable[[Path, str], Path]:
    """The model as exported by optimum-intel with this weight format."""

    def files(work: Path, model: str) -> Path:
        command = ["export", "openvino", "--model", folder(work, model), "--weight-format", weights, *TASK]
        tool = GENAI.python(work).with_name("optimum-cli")
        return once(work / f"{model}-openvino-{weights}", lambda path: run([tool, *command, path]))

    return files


def exported(work: Path, model: str, side: int) -> Path:
    """Our bundle in fp32. side: its default picture size."""
    command = [sys.executable, "-m", "latentrt", "export", folder(work, model)]
    bundle = once(work / f"{model}-fp32", lambda path: run([*command, path, "--precision", "fp32"]))
    return sized(bundle, side)


def four_bit_bundle(work: Path, model: str) -> Path:
    """Our bundle with weights in 4 bits."""
    command = [sys.executable, "-m", "latentrt", "export", folder(work, model)]
    return once(work / f"{model}-w4", lambda path: run([*command, path, "--precision", "w4"]))


def float_bundle(work: Path, model: str) -> Path:
    """Our bundle in fp32."""
    return exported(work, model, 512)


def int8_bundle(work: Path, model: str) -> Path:
    """Our bundle with all layers in INT8; with random weights, loss means nothing."""
    out = work / f"{model}-int8"
    if not out.exists():
        calibrated(exported(work, model, 64), out, "cpu", 1, 2)
    return out


def optimised(bundle: Callable[[Path, str], Path]) -> Callable[[Path, str], Path]:
    """The bundle with additional graphs optimised for this processor, which ONNX Runtime uses."""

    def files(work: Path, model: str) -> Path:
        path = bundle(work, model)
        run([sys.executable, "-m", "latentrt", "build", path, "--target", "cpu"])
        return path

    return files


def cached(bundle: Callable[[Path, str], Path], boundary: int = CAREFUL) -> Callable[[Path, str], Path]:
    """The bundle with a shallow UNet for step caching."""

    def files(work: Path, model: str) -> Path:
        path = bundle(work, model)
        name = f"{path.name}-cached{'' if boundary == CAREFUL else f'-{boundary}'}"
        return once(path.with_name(name), lambda out: add_step_cache(path, out, boundary))

    return files


BOTH = (SD15, SDXL)
# SDXL's optimised graphs take 26 GB of disk: pictures without a step cache have those with one.
OPTIMISED_XL = optimised(cached(float_bundle))
ROWS = (
    Row("diffusers-fp32", "diffusers, torch", DIFFUSERS, "diffusers", "float32", "fp32", folder, BOTH),
    Row("diffusers-bf16", "diffusers, torch", DIFFUSERS, "diffusers", "bfloat16", "bf16", folder, BOTH, "avx512_bf16"),
    Row("optimum-fp32", "optimum-onnx, ONNX Runtime", OPTIMUM, "optimum", "", "fp32", onnx),
    Row("genai-fp32", "OpenVINO GenAI", GENAI, "genai", "", "its own, from fp32", openvino("fp32")),
    Row("genai-fp16", "OpenVINO GenAI", GENAI, "genai", "", "its own, from fp16", openvino("fp16"), (SDXL,)),
    Row("genai-int8", "OpenVINO GenAI", GENAI, "genai", "", "its own, weights in int8", openvino("int8")),
    Row("sdcpp-f16", "stable-diffusion.cpp", SDCPP, "sdcpp", "f16", "weights in f16", single_file),
    Row("sdcpp-q8_0", "stable-diffusion.cpp", SDCPP, "sdcpp", "q8_0", "weights in q8_0", single_file),
    Row("ort-fp32", ORT, OURS, "latentrt", "onnxruntime", "fp32", optimised(float_bundle)),
    Row("ort-fp32-xl", ORT, OURS, "latentrt", "onnxruntime", "fp32", OPTIMISED_XL, (SDXL,)),
    Row("openvino-fp32", "latentrt, OpenVINO", OURS, "latentrt", "openvino", "fp32", float_bundle, BOTH),
    Row("ort-int8", ORT, OURS, "latentrt", "onnxruntime", "INT8", optimised(int8_bundle), BOTH),
    Row("openvino-int8", "latentrt, OpenVINO", OURS, "latentrt", "openvino", "INT8", int8_bundle, BOTH),
    Row(
        "ort-fp32-cached", ORT_CACHED, OURS, "latentrt", "onnxruntime+3", "fp32", optimised(cached(float_bundle)), BOTH
    ),
    Row("openvino-fp32-cached", OPENVINO_CACHED, OURS, "latentrt", "openvino+3", "fp32", cached(float_bundle), BOTH),
    Row("openvino-fp32-fast", FASTER, OURS, "latentrt", "openvino+3", "fp32", cached(float_bundle, FAST), BOTH),
    Row("ort-int8-cached", ORT_CACHED, OURS, "latentrt", "onnxruntime+3", "INT8", optimised(cached(int8_bundle)), BOTH),
    Row("openvino-int8-cached", OPENVINO_CACHED, OURS, "latentrt", "openvino+3", "INT8", cached(int8_bundle), BOTH),
    Row("genai-int4", "OpenVINO GenAI", GENAI, "genai", "", "its own, weights in int4", openvino("int4"), KLEIN),
    Row("sdcpp-q4_0", "stable-diffusion.cpp", SDCPP, "sdcpp", "q4_0", "weights in q4_0", with_original, KLEIN),
    Row("ort-w4", ORT, OURS, "latentrt", "onnxruntime", FOUR, four_bit_bundle, KLEIN),
    Row("openvino-w4", "latentrt, OpenVINO", OURS, "latentrt", "openvino", FOUR, four_bit_bundle, KLEIN),
    Row("ort-w4-4GB", f"{ORT} in 4 GB", OURS, "latentrt", "onnxruntime@4", FOUR, four_bit_bundle, KLEIN),
)
