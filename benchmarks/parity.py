"""Compares every task of every family with diffusers: writes the table in docs/parity.md.

    python -m benchmarks.parity [--rows WORD ...]

Each row is a small model of the published shape with random weights. latentrt exports and runs it; diffusers' own
pipeline runs it with the same noise. The figure is the lowest PSNR of a row's requests, of pixels before rounding. Rows
of sound are compared with results of Riffusion. --rows prints the rows whose task or model has one of the words, and
writes nothing. The exit status is 1 if a row is under 45 dB.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as xl_image
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint as xl_inpaint

import latentrt
from latentrt.lora.files import Lora
from latentrt_export.export import ExportOptions, export
from tests.export import (
    control_pairs,
    embeddings,
    hires_pairs,
    image_prompt_pairs,
    klein,
    ldm_pairs,
    ldm_text,
    loras,
    pixart,
    sd3,
    shown_pairs,
    unclip_pairs,
)
from tests.export.controls import noise
from tests.export.image_pairs import mask, picture
from tests.export.pairs import SIZE, STEERED, Pair, adapted, handed_over, opened_pair, prompted, steered, steered_pair
from tests.export.samplers import psnr
from tests.export.tiny_families import EPSILON, GUIDED, SHOWN, TINY, VARIANTS, reference
from tests.export.untraced import untraced
from tests.runtime.audio import riffusion

LEAST_DB = 45.0
PAGE = Path(__file__).parents[1] / "docs" / "parity.md"
MARKS = "<!-- python -m benchmarks.parity -->", "<!-- end -->"
BOTH = {"guidance": 5.0, "negative": "blue"}
SIDES = (SIZE["width"], SIZE["height"])
# Request fields for latentrt, and additional arguments for diffusers.
Case = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """Result of a row: the lowest PSNR in dB, the reference pipeline, and the settings."""

    psnr_db: float
    reference: str
    sampler: str
    steps: str
    size: str


class Models:
    """The small checkpoints in a folder, each exported and opened once."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.folder, self.opened = folder, opened
        self.pair, self.steered, self.shown = cache(self._pair), cache(self._steered), cache(self._shown)

    def _pair(self, name: str, precision: str = "w16") -> Pair:
        return self._opened(opened_pair(name, self.folder / f"{name}-{precision}", precision=precision))

    def _steered(self, name: str) -> Pair:
        return self._opened(steered_pair(name, self.folder / f"{name}-steered"))

    def _opened(self, pair: Pair) -> Pair:
        self.opened.enter_context(pair.ours)
        return pair

    def _shown(self, name: str) -> shown_pairs.Pair:
        folder = self.folder / name
        theirs = reference(SHOWN[name], folder / "tokenizers")
        theirs.save_pretrained(folder / "checkpoint")
        return shown_pairs.Pair(untraced(folder / "checkpoint", folder / "untraced"), theirs)


@dataclass(frozen=True)
class Row:
    """A task of a family and the function that measures it."""

    task: str
    model: str
    measure: Callable[[Models], Result]


def measured(pair: Pair, cases: Sequence[Case]) -> Result:
    """Measures the requests of a row."""
    found = min(pair.psnr(theirs=arguments, **request) for request, arguments in cases)
    return result_of(pair, found, [request for request, _ in cases])


def result_of(pair: Any, psnr_db: float, requests: Sequence[dict[str, Any]]) -> Result:
    """A figure with the settings of its requests."""
    steps = ", ".join(str(count) for count in sorted({one.get("steps", 3) for one in requests}))
    width, height = (requests[0].get(side, SIZE[side]) for side in ("width", "height"))
    sampler = pair.ours.bundle.manifest.defaults.sampler
    return Result(psnr_db, type(pair.theirs).__name__, sampler, steps, f"{width}x{height}")


def with_pipeline(pair: Pair, kind: str) -> Pair:
    """The pair with another diffusers pipeline of the same modules."""
    theirs = getattr(diffusers, kind).from_pipe(pair.theirs)
    theirs.set_progress_bar_config(disable=True)
    return replace(pair, theirs=theirs)


def from_text(models: Models, variant: str) -> Result:
    """Text to image, with all requests for a published model."""
    family, scheduler, requests = TEXT[variant]
    return measured(models.pair(family).with_scheduler(scheduler()), [(request, {}) for request in requests])


def from_text_by_bert(models: Models, name: str) -> Result:
    """Text to image by the latent diffusion paper's models, with batches."""
    with (pair := ldm_text.opened_pair(name, models.folder / name)).ours:
        requests = [{"steps": steps, "batch": batch, "guidance": one} for (steps, batch), one in ldm_text.CASES]
        return result_of(pair, min(ldm_text.drawn(pair, **request) for request in requests), requests)


def by_a_transformer(models: Models, name: str) -> Result:
    """Text to image by PixArt's models, with batches."""
    kind, changes = pixart.KINDS[name]
    with (made := pixart.opened_pair(models.folder / name, kind, changes=changes)).ours:
        cases = [(counts, guidance) for counts in pixart.COUNTS for guidance in pixart.GUIDANCE]
        least = min(made.psnr(batch=batch, steps=steps, guidance=one) for (steps, batch), one in cases)
    steps = ", ".join(str(count) for count, _ in pixart.COUNTS)
    return Result(least, kind.__name__, "dpmpp_2m", steps, "96x64")


def by_klein(models: Models, name: str, **asked: Any) -> Result:
    """Pictures by FLUX.2 klein's models, with batches. asked: what each is made of beside a text."""
    base, folder = name.endswith("base"), models.folder / "-".join([*name.split(), *asked])
    folder.mkdir()
    with (made := klein.opened_pair(folder, distilled=not base)).ours:
        counts = [(max(steps, 2), batch) for steps, batch in klein.COUNTS] if "strength" in asked else klein.COUNTS
        guidance = 4.0 if base else 1.0
        least = min(made.psnr(steps=steps, batch=batch, guidance=guidance, **asked) for steps, batch in counts)
    reference = "Flux2KleinInpaintPipeline" if "mask" in asked else "Flux2KleinPipeline"
    return Result(least, reference, "flow_euler", ", ".join(str(steps) for steps, _ in counts), "96x64")


def by_sd3(models: Models, name: str, **asked: Any) -> Result:
    """Pictures by Stable Diffusion 3's models, with batches. asked: what each is made of beside a text."""
    kind, folder = name.removesuffix(WITHOUT_T5), models.folder / "-".join([*name.split(), *asked])
    folder.mkdir()
    with (made := sd3.opened_pair(folder, t5=kind == name, changes=sd3.KINDS[kind])).ours:
        counts = [(max(steps, 2), batch) for steps, batch in sd3.COUNTS[1:]] if asked else sd3.COUNTS
        cases = [(counts, guidance) for counts in counts for guidance in sd3.GUIDANCE]
        found = (made.psnr(steps=steps, batch=batch, guidance=one, **asked) for (steps, batch), one in cases)
        least, reference = min(found), type(made.pipeline(asked)).__name__
    return Result(least, reference, "flow_euler", ", ".join(str(steps) for steps, _ in counts), "96x64")


def of_a_kind(models: Models, kind: str) -> Result:
    """A model of the latent diffusion paper, or of unCLIP, in all cases."""
    build, cases = {**ldm_pairs.KINDS, **unclip_pairs.KINDS}[kind]
    (folder := models.folder / kind.replace(" ", "-")).mkdir()
    with (pair := build(folder)).ours:
        least = min(pair.psnr(case) for case in cases)
    steps = ", ".join(map(str, dict.fromkeys(case.steps for case in cases)))
    size = "256x128" if kind == "super-resolution" else "96x64"
    return Result(least, REFERENCES.get(kind, "a loop of diffusers' modules"), "ddim", steps, size)


def from_an_image(models: Models, family: str, kind: str) -> Result:
    """Image to image, with a sample from the VAE's posterior."""
    arguments = {"image": picture(SIDES), "strength": 0.7}
    request = {"init": arguments["image"], "strength": 0.7, "posterior": "sample", "guidance": 5.0}
    return measured(with_pipeline(models.pair(family), kind), [(request, arguments)])


def under_a_mask(models: Models, family: str, kind: str) -> Result:
    """Inpainting by a mask, with a UNet of 4 channels."""
    arguments = {"image": picture(SIDES), "mask_image": mask(SIDES), "strength": 0.7, **SIZE}
    request = {"init": arguments["image"], "mask": arguments["mask_image"], "strength": 0.7, "guidance": 5.0}
    with posterior_means():
        return measured(with_pipeline(models.pair(family), kind), [(request, arguments)])


@contextmanager
def posterior_means() -> Iterator[None]:
    """Makes diffusers' inpainting pipelines use the posterior's mean."""
    with ExitStack() as patched:
        for module in (inpaint, xl_inpaint):
            mean = partial(module.retrieve_latents, sample_mode="argmax")
            patched.enter_context(patch.object(module, "retrieve_latents", mean))
        yield


def extra_channels(models: Models, name: str, cases: Sequence[dict[str, Any]]) -> Result:
    """A UNet with extra input channels for a mask or an image."""
    pair = models.shown(name)
    with posterior_means():
        return result_of(pair, min(pair.psnr(**case) for case in cases), cases)


def through_windows(models: Models) -> Result:
    """A picture made through windows (tiles)."""
    pair = with_pipeline(models.pair("sd1"), "StableDiffusionPanoramaPipeline")
    pair.theirs.get_views = partial(pair.theirs.get_views, window_size=16, stride=4)
    sides = {"width": 160, "height": 160}
    return measured(pair, [({"window": 128, "stride": 32, "steps": 2, **BOTH, **sides}, sides)])


def base_then_refiner(models: Models) -> Result:
    """The base for three of five steps, then the refiner."""
    refiner = models.pair("sdxl-refiner")
    return result_of(refiner, handed_over(models.pair("sdxl"), refiner), [{"steps": 5}])


def with_loras(models: Models, family: str, *, fused: bool) -> Result:
    """Two LoRA files, fused into another export or added at run time to the same bundle."""
    pair = models.pair(family, "fp32")
    if not (pair.folder / "kohya.safetensors").exists():
        loras.save_both(pair.folder, TINY[family])
    scales = loras.scales_in(pair.folder)
    if fused:
        chosen = tuple(Lora(file, scale) for file, scale in scales.items())
        export(pair.folder / "checkpoint", pair.folder / "fused", ExportOptions(loras=chosen))
    ours = latentrt.load(pair.folder / "fused", engine="onnxruntime") if fused else pair.ours.with_loras(scales)
    loras.load_both(pair.theirs, pair.folder)
    try:
        with ours:
            return measured(replace(pair, ours=ours), [(BOTH, {})])
    finally:
        pair.theirs.unload_lora_weights()


def larger_than_trained(models: Models) -> Result:
    """Pictures of more than twice the sides that the UNet was trained on, in one piece."""
    sides = {"width": 160, "height": 136}
    return measured(models.pair("sd1"), [({**BOTH, **sides}, sides)])


def in_two_passes(models: Models) -> Result:
    """The built-in model's picture enlarged in a second pass."""
    with hires_pairs.built_in_pair(models.folder / "built-in") as pair:
        return two_passes(pair, "StableDiffusionImg2ImgPipeline")


def in_two_passes_of_xl(models: Models) -> Result:
    """SDXL's picture enlarged in a second pass."""
    pair = models.pair("sdxl")
    pair.theirs.scheduler = pair.scheduler
    with patch.object(xl_image, "retrieve_latents", partial(xl_image.retrieve_latents, sample_mode="argmax")):
        return two_passes(pair, "StableDiffusionXLImg2ImgPipeline")


def two_passes(pair: Any, kind: str) -> Result:
    """Measures the cases of two passes. kind: diffusers' pipeline for the second pass."""
    cases, second = itertools.product(hires_pairs.UPSCALERS, hires_pairs.CASES), getattr(diffusers, kind)
    found = min(hires_pairs.two_passes(pair, upscaler, *case, kind=second) for upscaler, case in cases)
    return Result(found, kind, pair.ours.bundle.manifest.defaults.sampler, "2 + 1, 3 + 2", "96x72, 80x56")


def controlnet_half(models: Models, family: str) -> Result:
    """A ControlNet for half of the steps."""
    pair = models.steered(family)
    return replace(result_of(pair, steered(pair)[0], [{}]), reference=STEERED[family].__name__)


def controlnet_in_many_ways(models: Models) -> Result:
    """One ControlNet with one image and two, for some or all of the steps, with and without guess mode."""
    pair = control_pairs.Pair(models.folder / "controlnet")
    with pair.ours:
        found = min(pair.losses(*controls, **options)[0] for controls, options in control_pairs.CASES.values())
    requests = [{"steps": 2, **options} for _, options in control_pairs.CASES.values()]
    return replace(result_of(pair, found, requests), reference="StableDiffusionControlNetPipeline")


def t2i_adapter_in_many_ways(models: Models) -> Result:
    """T2I-Adapters for colour and for grey images, alone and together."""
    pair = control_pairs.Pair(models.folder / "adapters")
    with pair.ours:
        cases = control_pairs.ADAPTER_CASES.values()
        found = min(pair.adapter_losses(*controls, **options)[0] for controls, options in cases)
    requests = [{"steps": 2, **options} for _, options in cases]
    return replace(result_of(pair, found, requests), reference="StableDiffusionAdapterPipeline")


def t2i_adapter_half(models: Models) -> Result:
    """SDXL's T2I-Adapter for half of the steps."""
    pair = models.steered("sdxl")
    requests = [{"steps": 4, "width": 96, "height": 64}]
    return replace(result_of(pair, adapted(pair)[0], requests), reference="StableDiffusionXLAdapterPipeline")


def ip_adapter_in_many_ways(models: Models) -> Result:
    """IP-Adapters of both kinds, one and both at once, and two images for one."""
    pair, _ = image_prompt_pairs.prompted_pair(models.folder / "prompted")
    losses, cases = image_prompt_pairs.losses, image_prompt_pairs.CASES.values()
    found = min(losses(pair, controls, theirs=theirs, **options)[0] for controls, options, theirs in cases)
    return result_of(pair, found, [options for _, options, _ in cases])


def ip_adapter_xl(models: Models) -> Result:
    """SDXL's IP-Adapters of both kinds at once."""
    pair = models.steered("sdxl")
    return result_of(pair, prompted(pair)[0], [{"steps": 2}])


def with_words(models: Models) -> Result:
    """Textual-inversion words in the prompt and the negative prompt, of three vectors and of one."""
    folder = embeddings.saved(models.folder / "embeddings")
    ours, theirs = embeddings.with_words(folder, folder / "bundle")
    got, expected = embeddings.images(ours, theirs, "a red <cat>, two bad-hands", "bad-hands")
    size = "x".join(str(side) for side in embeddings.SIZE.values())
    return Result(psnr(got, expected, 1.0), type(theirs).__name__, "ddim", "2", size)


def sound(_models: Models, loss: Callable[[], float], size: str) -> Result:
    """A sound, or its spectrogram, compared with the result of Riffusion."""
    return Result(loss(), "riffusion 0.0.5, torchaudio 2.11", "Griffin-Lim", "32", size)


NAMES = {
    "built-in": "the built-in model",
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2, v",
    "sd2-base": "Stable Diffusion 2, epsilon",
    "sd-turbo": "SD-Turbo",
    "sdxl": "SDXL",
    "sdxl-turbo": "SDXL-Turbo",
    "sdxl-refiner": "SDXL's refiner",
    "lcm": "LCM",
    "tiny-sd": "tiny-sd, pruned",
    "ssd-1b": "SSD-1B, pruned",
    "inpaint": "Stable Diffusion 1, 9 channels",
    "sd2-inpaint": "Stable Diffusion 2, 9 channels",
    "sdxl-inpaint": "SDXL, 9 channels",
    "pix2pix": "InstructPix2Pix",
    "sdxl-pix2pix": "InstructPix2Pix, SDXL",
    "ldm-text-large": "latent diffusion, KL-f8",
    "ldm-text-256": "latent diffusion, VQ-f4",
}
TEXT = {"sd1": ("sd1", EPSILON, GUIDED), **VARIANTS}
IMAGE = {
    "sd1": "StableDiffusionImg2ImgPipeline",
    "sd2": "StableDiffusionImg2ImgPipeline",
    "sdxl": "StableDiffusionXLImg2ImgPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
}
REFERENCES = {
    "super-resolution": "LDMSuperResolutionPipeline",
    "image variations": "StableUnCLIPImg2ImgPipeline",
    "text by a prior": "StableUnCLIPPipeline",
}
MASK = {
    "sd1": "StableDiffusionInpaintPipeline",
    "sd2": "StableDiffusionInpaintPipeline",
    "sdxl": "StableDiffusionXLInpaintPipeline",
}
PAINTED = {"inpaint": slice(None), "sd2-inpaint": slice(1), "sdxl-inpaint": slice(1)}
EDITED = {"pix2pix": slice(None), "sdxl-pix2pix": slice(1)}
KLEIN = ("FLUX.2 klein", "FLUX.2 klein base")
WITHOUT_T5 = ", without T5"
MEDIUM = next(iter(sd3.KINDS))
SEEN = [noise(97, 70), noise(64, 130, seed=1)]
PATCHES = {"init": noise(96, 64, seed=2), "mask": klein.patch_mask(), "strength": 0.5}
SAMPLED = {"init": PATCHES["init"], "strength": 0.5, "posterior": "sample"}

ROWS = (
    *(Row("text to image", NAMES[name], partial(from_text, variant=name)) for name in TEXT),
    *(Row("text to image", NAMES[name], partial(from_text_by_bert, name=name)) for name in ldm_text.MODELS),
    *(Row("text to image", name, partial(by_a_transformer, name=name)) for name in pixart.KINDS),
    *(Row("text to image", name, partial(by_klein, name=name)) for name in KLEIN),
    *(Row("text to image", name, partial(by_sd3, name=name)) for name in (*sd3.KINDS, MEDIUM + WITHOUT_T5)),
    *(Row(kind, "latent diffusion", partial(of_a_kind, kind=kind)) for kind in ldm_pairs.KINDS),
    *(Row(kind, "Stable Diffusion 2.1 unCLIP", partial(of_a_kind, kind=kind)) for kind in unclip_pairs.KINDS),
    *(
        Row("image to image", NAMES[name], partial(from_an_image, family=name, kind=kind))
        for name, kind in IMAGE.items()
    ),
    *(
        Row("inpainting, mask", NAMES[name], partial(under_a_mask, family=name, kind=kind))
        for name, kind in MASK.items()
    ),
    Row("image to image", MEDIUM, partial(by_sd3, name=MEDIUM, **SAMPLED)),
    Row("inpainting, mask", MEDIUM, partial(by_sd3, name=MEDIUM, **SAMPLED, mask=sd3.patch_mask())),
    *(
        Row("inpainting, UNet", NAMES[name], partial(extra_channels, name=name, cases=shown_pairs.INPAINTING[part]))
        for name, part in PAINTED.items()
    ),
    *(
        Row("editing", NAMES[name], partial(extra_channels, name=name, cases=shown_pairs.EDITING[part]))
        for name, part in EDITED.items()
    ),
    Row("editing, references", KLEIN[0], partial(by_klein, name=KLEIN[0], references=SEEN)),
    Row("inpainting, references", KLEIN[0], partial(by_klein, name=KLEIN[0], **PATCHES, references=SEEN[:1])),
    Row("larger than trained on", NAMES["sd1"], larger_than_trained),
    Row("panorama, windows", NAMES["sd1"], through_windows),
    Row("two passes (hires)", NAMES["built-in"], in_two_passes),
    Row("two passes (hires)", NAMES["sdxl"], in_two_passes_of_xl),
    Row("base, then refiner", NAMES["sdxl"], base_then_refiner),
    Row("ControlNet", NAMES["sd1"], controlnet_in_many_ways),
    *(Row("ControlNet", NAMES[name], partial(controlnet_half, family=name)) for name in STEERED),
    Row("T2I-Adapter", NAMES["sd1"], t2i_adapter_in_many_ways),
    Row("T2I-Adapter", NAMES["sdxl"], t2i_adapter_half),
    Row("IP-Adapter", NAMES["sd1"], ip_adapter_in_many_ways),
    Row("IP-Adapter", NAMES["sdxl"], ip_adapter_xl),
    Row("textual inversion", NAMES["sd1"], with_words),
    *(Row("LoRA, fused", NAMES[name], partial(with_loras, family=name, fused=True)) for name in ("sd1", "sdxl")),
    *(Row("LoRA, run time", NAMES[name], partial(with_loras, family=name, fused=False)) for name in ("sd1", "sdxl")),
    Row("sound to spectrogram", "a note and a beat", partial(sound, loss=riffusion.picture_db, size="26x512")),
    Row("spectrogram to sound: SNR", "a note and a beat", partial(sound, loss=riffusion.sound_db, size="0.25 s")),
)


def lines(rows: Sequence[Row], models: Models) -> Iterator[tuple[str, float]]:
    """Yields each row of the table as Markdown, and its figure."""
    for row in rows:
        found = row.measure(models)
        cells = (row.task, row.model, found.reference, found.sampler, found.steps, found.size, f"{found.psnr_db:.1f}")
        yield f"| {' | '.join(cells)} |", found.psnr_db


def write(table: Sequence[str], seconds: float) -> None:
    """Writes the table into the page, between its marks."""
    packages = ("diffusers", "torch", "onnxruntime", "numpy")
    about = ", ".join(f"{package} {version(package)}" for package in packages)
    note = f"{time.strftime('%Y-%m-%d')}, {about}; {seconds:.0f} s."
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    text = "\n".join([MARKS[0], "", *table, "", note, "", MARKS[1]])
    PAGE.write_text(f"{before}{text}{after}", encoding="utf-8")


def main() -> None:
    """Measures and prints the table; writes it if all rows were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", metavar="WORD")
    words = parser.parse_args().rows
    rows = [row for row in ROWS if not words or any(word in f"{row.task} {row.model}" for word in words)]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    began, table, worst = time.perf_counter(), [], float("inf")
    heads = ("task", "model", "reference", "sampler", "steps", "size", "dB")
    table += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    print(*table, sep="\n")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        for line, psnr_db in lines(rows, Models(Path(folder), opened)):
            print(line, flush=True)
            table.append(line)
            worst = min(worst, psnr_db)
    if not words:
        write(table, time.perf_counter() - began)
    if worst < LEAST_DB:
        sys.exit(f"the lowest row is {worst:.1f} dB, expected at least {LEAST_DB:g}")


if __name__ == "__main__":
    main()
