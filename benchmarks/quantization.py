"""Compares methods and parts of quantization: one table of pictures, bytes and speed, on the same prompts.

    python -m benchmarks.quantization [--bundle emoji] [--prompts 100] [--steps 20] [--calibration FILE]
                                      [--evaluation FILE] [--rows stock,ours,...] [--json FILE]

Each row is a quantized UNet. It generates the evaluation prompts with fixed seeds, and its pictures are compared with
the float bundle's. All rows are calibrated on the same recording. Speed is the median time per call relative to the
float UNet, with interleaved calls. Results are kept in runs/quantization/; a stopped command continues there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from benchmarks.machine import machine, one_line
from benchmarks.stock import ADVISED, DEFAULT, quantize_stock
from benchmarks.unhoisted import write_unhoisted
from latentrt.bundle.folder import sha256_of
from latentrt.bundle.manifest import Component
from latentrt.bundle.quantization import PictureLoss
from latentrt.device.cores import usable_cores
from latentrt.engines import Engine
from latentrt.engines.onnx.engine import OnnxRuntimeEngine
from latentrt.pipeline.load import load
from latentrt.pipeline.pipeline import Pipeline
from latentrt.prompt.file import read_prompts
from latentrt.storage.atomic import new_file, new_folder
from latentrt.storage.json_codec import parse
from latentrt_calib.calibrate import EVALUATION_SEED, CalibrationOptions
from latentrt_calib.evaluate.candidate import Evaluator
from latentrt_calib.evaluate.compare import EVALUATION, bundle_summary, compare
from latentrt_calib.evaluate.generate import generate_samples, requests_of
from latentrt_calib.evaluate.metrics import snr_db
from latentrt_calib.precisions.context import Context, recorded, shapes_of
from latentrt_calib.precisions.int8 import choose_float_layers, plan_all_layers
from latentrt_calib.precisions.weights import draft_of, in_w4
from latentrt_calib.quantize.planning import Recipe, candidates
from latentrt_calib.recording.prompts import SHIPPED
from latentrt_calib.recording.record import UNET, Recording
from latentrt_export.graph.constants import VIEWS
from latentrt_export.graph.costs import OPERATORS, Shapes, concrete_shapes, node_macs
from latentrt_export.graph.eight_bits import weight_only
from latentrt_export.graph.four_bit_weights import BlockWeight
from latentrt_export.graph.layers import layer_nodes, layers_of, weight_of
from latentrt_export.graph.save import save_graph
from latentrt_export.step_cache import without_step_cache

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "runs" / "quantization"
JUDGES = 16  # pictures on which a budget is checked, as in `latentrt calibrate`


@dataclass(frozen=True)
class Row:
    """A method to quantize the UNet. make: returns the graph. unhoisted: use the bundle without hoisting.

    precise: run with ONNX Runtime's option against saturation of s8 x s8 products on x86 without VNNI.
    """

    key: str
    name: str
    make: Callable[[Setup], ir.Model]
    unhoisted: bool = False
    precise: bool = False


@dataclass(frozen=True)
class Measured:
    """A row's figures. of_layers, of_all: INT8's share of multiply-adds, 0 to 1: with fixed weights, of all.

    sha256: of the graph's files. snr_db: of the UNet's output, mean over calls; less noisy than the PSNR of a few
    pictures. ratio: time per call relative to the float UNet. seconds: time for the row, with calibration.
    """

    sha256: str
    loss: PictureLoss
    of_layers: float
    of_all: float
    bytes: int
    snr_db: float
    ms: float
    ratio: float
    seconds: float


@dataclass(frozen=True)
class Setup:
    """A pipeline to quantize, prompts to calibrate and to evaluate it on, and a work folder."""

    pipeline: Pipeline
    options: CalibrationOptions
    folder: Path

    def work(self, recipe: Recipe) -> Context:
        """Context shared by the stages of calibration; each form of the graph has its own folder."""
        folder = self.folder / f"{recipe.target}{'-split' if recipe.split else ''}"
        return Context(self.pipeline, replace(self.options, recipe=recipe), folder, say)

    @cached_property
    def recording(self) -> Recording:
        """The recording of the calibration prompts, used by every row."""
        return recorded(Context(self.pipeline, self.options, self.folder, say))

    @cached_property
    def bench(self) -> Evaluator:
        """The evaluator with float pictures of the evaluation prompts."""
        return self.drawn(self.options.evaluations)

    @cached_property
    def judges(self) -> Evaluator:
        """The evaluator with the first prompts, on which budgets are checked."""
        return self.drawn(min(JUDGES, self.options.evaluations))

    def drawn(self, images: int) -> Evaluator:
        """An evaluator with float pictures of the first evaluation prompts."""
        options, bundle = self.options, self.pipeline.bundle
        seed = EVALUATION_SEED + options.seed
        asked = requests_of(options.evaluation, bundle, images=images, seed=seed, steps=options.steps)
        say(f"drawing {images} pictures in float")
        return Evaluator(self.pipeline, asked, self.folder)

    @property
    def component(self) -> Component:
        """The float UNet's manifest entry, without deep features for a step cache."""
        return without_step_cache(self.pipeline.bundle.manifest).components[UNET]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the UNet's inputs for one picture."""
        return shapes_of(self.pipeline.bundle.manifest, self.component.inputs)


@dataclass(frozen=True)
class Ours:
    """latentrt's method. budget_db: PSNR for which layers go back to float; None: all stay in INT8."""

    recipe: Recipe = Recipe()
    budget_db: float | None = None

    def __call__(self, setup: Setup) -> ir.Model:
        """The quantized graph."""
        work = setup.work(self.recipe)
        made = plan_all_layers(work, setup.recording)
        kept: frozenset[str] = frozenset()
        if self.budget_db is not None:
            options = replace(work.options, budget_db=self.budget_db)
            kept, _ = choose_float_layers(replace(work, options=options), setup.judges, made)
        plans = {name: one.plan for name, one in made.planned.items() if name not in kept}
        return made.graph.quantized(plans, self.recipe.target)


@dataclass(frozen=True)
class Stock:
    """ONNX Runtime's own quantizer."""

    options: Mapping[str, Any]

    def __call__(self, setup: Setup) -> ir.Model:
        """The quantized graph."""
        say("ONNX Runtime's quantizer")
        path = setup.pipeline.bundle.path(setup.component.file)
        return quantize_stock(path, setup.recording, setup.folder / "stock", self.options)


def weights_only(setup: Setup) -> ir.Model:
    """The graph with weights in 8 bits, computed in float."""
    graph = setup.work(Recipe()).graph(split=False)
    model = graph.model()
    weight_only(model, [layer.name for layer in candidates(layers_of(model, graph.shapes))])
    return model


@dataclass(frozen=True)
class FourBits:
    """Linear layers in 4 bits, others in 8. budget_db: PSNR for which linear layers keep 8 bits; None: none does."""

    recipe: Recipe = Recipe()
    budget_db: float | None = None

    def __call__(self, setup: Setup) -> ir.Model:
        """The graph."""
        work = Context(setup.pipeline, replace(setup.options, recipe=self.recipe), setup.folder, say)
        if self.budget_db is None:
            draft = draft_of(work, UNET)
            return draft.model(draft.weights)
        options = replace(work.options, budget_db=self.budget_db)
        return in_w4(replace(work, options=options), setup.judges, UNET).model


def largest_to_seven(setup: Setup) -> ir.Model:
    """Linear layers in 4 bits as most tools round them: the largest magnitude of a block is 7; others in 8 bits."""
    draft = draft_of(setup.work(Recipe(feedback=False)), UNET)
    nodes = layer_nodes(draft.graph.model().graph)
    weights = {}
    for name, one in draft.weights.items():
        blocks = weight_of(nodes[name]).reshape(len(one.scales), one.block, -1)
        scales = (np.abs(blocks).max(1) / 7).astype(np.float16).astype(np.float32)
        values = np.clip(np.rint(blocks / scales[:, np.newaxis]), -8, 7).reshape(one.values.shape)
        weights[name] = BlockWeight(values.astype(np.int8), scales)
    return replace(draft, weights=weights).model(weights)


ROWS = (
    Row("stock", "ONNX Runtime's quantizer, its defaults", Stock(DEFAULT)),
    Row("advised", "ONNX Runtime's quantizer, as its guide advises", Stock(ADVISED)),
    Row("ours", "ours, with the default budget of 30 dB", Ours(budget_db=30.0)),
    Row("all", "ours without sensitivity: no layer kept in float for a budget", Ours()),
    Row("strict", "ours, with a budget of 44 dB", Ours(budget_db=44.0)),
    Row("nosplit", "ours without the split of skip connections", Ours(Recipe(split=False))),
    Row("nosmooth", "ours without SmoothQuant", Ours(Recipe(smooth=False))),
    Row("nobias", "ours without bias correction", Ours(Recipe(correct=False))),
    Row("noclip", "ours over the extremes", Ours(Recipe(clip=False))),
    Row("nohoist", "ours without hoisting", Ours(), unhoisted=True),
    Row("tensorrt", "ours, TensorRT's form", Ours(Recipe("tensorrt")), precise=True),
    Row("w8", "weights alone", weights_only),
    Row("w4seven", "linear layers' weights in 4 bits, the largest magnitude at 7", largest_to_seven),
    Row("w4nearest", "in 4 bits, ours without error feedback", FourBits(Recipe(feedback=False))),
    Row("w4", "in 4 bits, ours", FourBits()),
    Row("w4strict", "in 4 bits, ours, with a budget of 44 dB", FourBits(budget_db=44.0)),
)


class PreciseEngine(OnnxRuntimeEngine):
    """Prevents saturation of s8 x s8 products on processors without VNNI, since GPUs do not saturate."""

    def load(self) -> None:
        """Creates the session with the additional option."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = self.session or onnxruntime.InferenceSession(self.path, options)


def measured(row: Row, setup: Setup, reference: Setup, known: Mapping[str, Measured]) -> Measured:
    """Quantizes, generates, times. known: figures by the graph's hash, which are reused."""
    start, model = time.monotonic(), row.make(setup)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        component = replace(setup.component, file=f"{UNET}.onnx", data=save_graph(model, folder, UNET))
        files = [folder / file for file in (component.file, *component.data)]
        sha256 = digest([sha256_of(file) for file in files] + [row.precise])
        if sha256 in known:
            return replace(known[sha256], seconds=time.monotonic() - start)
        engine = (PreciseEngine if row.precise else OnnxRuntimeEngine)(UNET, component, files[0])
        loss, snr, ms, float_ms = judged(setup, reference, engine)
        engine.close()
        size = sum(file.stat().st_size for file in files)
    of_layers, of_all = int8_shares(model, setup.shapes)
    return Measured(sha256, loss, of_layers, of_all, size, snr, ms, ms / float_ms, time.monotonic() - start)


def judged(setup: Setup, reference: Setup, engine: Engine) -> tuple[PictureLoss, float, float, float]:
    """Loss of the pictures, signal to noise in dB, and milliseconds per call of this UNet and of the reference."""
    requests, side = reference.bench.requests, bundle_summary(reference.pipeline.bundle)
    say(f"drawing {len(requests)} pictures")
    drawn = generate_samples(setup.pipeline.with_engines({UNET: engine}), requests)
    loss = compare(side, side, reference.bench.references, drawn).loss
    snr, ms, float_ms = timed((engine, setup.recording), (reference.pipeline.engines[UNET], reference.recording))
    return loss, snr, ms, float_ms


def int8_shares(model: ir.Model, shapes: Shapes) -> tuple[float, float]:
    """Shares of multiply-adds with both operands in 8 bits: of products with a fixed weight, and of all."""
    known = concrete_shapes(model, shapes)
    every = layers = int8 = int8_layers = 0
    for node in model.graph:
        if node.op_type in OPERATORS:
            macs, fixed = node_macs(node, known), is_fixed(node.inputs[1])
            in_8_bits = macs * all(is_dequantized(value) for value in node.inputs[:2])
            every, int8 = every + macs, int8 + in_8_bits
            layers, int8_layers = layers + macs * fixed, int8_layers + in_8_bits * fixed
    return int8_layers / layers, int8 / every


def is_dequantized(value: ir.Value | None) -> bool:
    """True if the value is dequantized from 8 bits."""
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "DequantizeLinear"


def is_fixed(value: ir.Value | None) -> bool:
    """True if the value is a weight, in any storage type."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in (*VIEWS, "DequantizeLinear") else None
    return value is not None


def timed(*given: tuple[Engine, Recording]) -> tuple[float, ...]:
    """The first engine's mean signal to noise in dB, compared with the last, and median ms per call of each.

    Calls are interleaved, on the recorded calls of the first and last pictures.
    """
    feeds = [[call.feeds for image in (0, -1) for call in one.calls(image % one.images)] for _, one in given]
    samples: list[list[float]] = [[] for _ in given]
    ratios = []
    for calls in zip(*feeds, strict=True):
        outputs = []
        for (engine, _), call, times in zip(given, calls, samples, strict=True):
            start = time.perf_counter()
            outputs.append(engine(call)["prediction"])
            times.append(1000 * (time.perf_counter() - start))
        ratios.append(snr_db(outputs[0], outputs[-1]))
    return fmean(ratios), *map(median, samples)


def measured_rows(rows: Sequence[Row], setups: Mapping[bool, Setup], folder: Path) -> list[tuple[Row, Measured]]:
    """Every row's figures: from its file, from an earlier row with the same graph, or measured now."""
    done: list[tuple[Row, Measured]] = []
    for row in rows:
        say(row.name)
        measure = partial(measured, row, setups[row.unhoisted], setups[False], {one.sha256: one for _, one in done})
        done.append((row, kept(folder / f"{row.key}-{code()}.json", measure)))
        say(f"{row.key}: {done[-1][1].seconds:.0f} s")
    return done


def kept(path: Path, measure: Callable[[], Measured]) -> Measured:
    """The contents of the file at `path`; measured and written if it is missing."""
    if path.exists():
        return parse(Measured, json.loads(path.read_text()))
    found = measure()
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(found)) + "\n")
    return found


def table(rows: Sequence[tuple[Row, Measured]], reference: Setup) -> str:
    """The rows in Markdown, with the float UNet first."""
    component, files = reference.component, reference.pipeline.bundle.manifest.files
    float_bytes = sum(files[file].bytes for file in (component.file, *component.data))
    heads = "| | MACs in INT8: of layers / of all | PSNR mean / worst, dB | SSIM mean / worst "
    heads += "| latents off, first / middle / last step | UNet output, dB | UNet MB | time of a call, float = 1 |"
    lines = [
        heads,
        "|---|---|---|---|---|---|---|---|",
        f"| float, {component.precision} | | | | | | {float_bytes / 1e6:.1f} | 1 |",
    ]
    for row, one in rows:
        loss, errors = one.loss, one.loss.latents_error
        psnr = "equal" if loss.psnr_db is None else f"{loss.psnr_db:.2f} / {loss.worst_psnr_db:.2f}"
        growth = " / ".join(f"{errors[place]:.2%}" for place in (0, len(errors) // 2, -1))
        cells = (
            row.name,
            f"{one.of_layers:.1%} / {one.of_all:.1%}",
            psnr,
            f"{loss.ssim:.4f} / {loss.worst_ssim:.4f}",
            growth,
            f"{one.snr_db:.1f}",
            f"{one.bytes / 1e6:.1f}",
            f"{one.ratio:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def say(line: str) -> None:
    """Prints progress on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def digest(content: object) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def code() -> str:
    """A short hash of the code that makes the rows; a change of it makes figures be measured again."""
    files = sorted((ROOT / "calib").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))
    return digest([sha256_of(file) for file in files])


def arguments() -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="emoji", help="a float bundle's folder or a built-in model")
    parser.add_argument("--prompts", type=int, default=100, help="number of evaluation pictures")
    parser.add_argument("--images", type=int, default=16, help="number of calibration pictures")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--calibration", type=Path, default=SHIPPED, help="a file of prompts")
    parser.add_argument("--evaluation", type=Path, default=EVALUATION, help="a file of other prompts")
    parser.add_argument("--rows", default=",".join(row.key for row in ROWS))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measures the selected rows, prints the table after each, and writes it as JSON if --json is given."""
    given = arguments()
    options = CalibrationOptions(
        read_prompts(given.calibration),
        read_prompts(given.evaluation),
        images=given.images,
        steps=given.steps,
        evaluations=given.prompts,
    )
    chosen = [row for row in ROWS if row.key in given.rows.split(",")]
    with load(given.bundle) as pipeline:
        about = {"bundle": pipeline.bundle.sha256, **asdict(options), "onnxruntime": version("onnxruntime")}
        folder = KEPT / digest(about)
        if not (folder / "unhoisted").exists():
            with new_folder(folder / "unhoisted") as temporary:
                write_unhoisted(pipeline.bundle, temporary)
        with load(folder / "unhoisted") as merged:
            setups = {False: Setup(pipeline, options, folder), True: Setup(merged, options, folder / "nohoist")}
            done = measured_rows(chosen, setups, folder)
        text = table(done, setups[False])
    print(f"{one_line(machine())}\n\n{text}")
    if given.json:
        rows = [{"key": row.key, "name": row.name, **asdict(one)} for row, one in done]
        given.json.write_text(json.dumps({"machine": machine(), "options": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
