"""`latentrt inspect`: components and defaults of a bundle, or the settings of a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, echo, print_json

if TYPE_CHECKING:
    from latentrt.bundle.folder import Bundle
    from latentrt.bundle.manifest import Classes, Latents, Manifest
    from latentrt.bundle.presets import Preset
    from latentrt.bundle.quantization import PictureLoss, Quantization

# A path with such an ending is a picture, even if the file does not exist.
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".apng", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")
# Checkpoints, of which the bundle in the cache is shown.
WEIGHTS = (".safetensors", ".ckpt")

SHOWN_CLASSES = 3


@click.command()
@click.argument("path")
@as_json
def inspect(path: str, as_json: bool) -> None:
    """Show the components and defaults of a bundle, or the prompt and settings of a picture.

    PATH is a bundle's folder, a built-in model's name, or a picture by latentrt or another tool: AUTOMATIC1111, Forge,
    SD.Next, ComfyUI, InvokeAI, NovelAI, Fooocus ... Settings that latentrt also has are shown under latentrt's names.
    """
    file = Path(path)
    if (file.is_file() and file.suffix.lower() not in WEIGHTS) or file.suffix.lower() in ENDINGS:
        inspect_picture(file, as_json)
        return
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle

    bundle = open_bundle(folder_of(path, export=False), verify=False)
    if as_json:
        print_json({"sha256": bundle.sha256, **asdict(bundle.manifest)})
    else:
        echo("\n".join(lines_of(bundle)))


def inspect_picture(path: Path, as_json: bool) -> None:
    """Prints the settings in a picture's metadata. Raises RequestError if there are none."""
    from latentrt.pipeline.metadata import own_record
    from latentrt.recipes import read_recipe
    from latentrt.recipes.texts import read_texts

    record = own_record(path, read_texts(path))
    if record:
        print_json(record) if as_json else show(record)
        return
    recipe = read_recipe(path)
    if as_json:
        print_json(recipe.record())
        return
    show({"made by": recipe.tool, **recipe.settings})
    if recipe.other:
        echo("")
        echo("not in latentrt's words:")
        show(recipe.other)


def show(record: Mapping[str, Any]) -> None:
    """Prints the entries of a picture's record, one per line, without empty ones."""
    filled = {key: words(value) for key, value in record.items() if value not in (None, "", [], {})}
    width = max(map(len, filled), default=0)
    for key, value in filled.items():
        first, *lines = value.split("\n")
        echo("\n".join([f"{key:{width}} {first}", *(f"{'':{width}} {line}" for line in lines)]))


def words(value: Any) -> str:
    """A value as text: the parts of an object or a list, separated by commas."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(one)}" for key, one in value.items() if one is not None)
    if isinstance(value, list):
        return (
            "; ".join(map(words, value))
            if any(isinstance(one, dict) for one in value)
            else ", ".join(map(words, value))
        )
    return str(value)


def lines_of(bundle: Bundle) -> Iterator[str]:
    """The lines that describe a bundle, about one screen."""
    manifest = bundle.manifest
    yield f"{manifest.name}  {manifest.family}  {', '.join(manifest.tasks)}  {bundle.sha256[:10]}"
    yield from sampling_lines(manifest) if manifest.schedule else [latents_line(manifest.latents)]
    if manifest.latents.multiple > 1:
        yield f"width and height in multiples of {manifest.latents.pixel_multiple} pixels"
    if manifest.classes:
        yield classes_line(manifest.classes)
    if manifest.image_embedding:
        subject = "varies an image" if manifest.varies_images else "a prior embeds the prompt"
        yield f"{subject}, with noise of the levels 0 to {manifest.image_embedding.noise_levels - 1}"
    yield from (preset_line(name, preset) for name, preset in manifest.presets.items())
    for name, component in manifest.components.items():
        size = sum(manifest.files[file].bytes for file in (component.file, *component.data))
        psnr = component.fidelity.psnr_db
        loss, suffix = "exact" if psnr is None else f"{psnr:.1f} dB", " in float" if component.quantization else ""
        yield ""
        yield f"{name}  {component.precision}  {size / 1e6:.1f} MB  {loss}{suffix}"
        if component.quantization is not None:
            yield from quantization_lines(component.quantization)
        for arrow, specs in (("<-", component.inputs), ("->", component.outputs)):
            yield from (f"  {arrow} {spec}" for spec in specs)


def sampling_lines(manifest: Manifest) -> Iterator[str]:
    """The lines on the schedule and the defaults of a model that draws pictures."""
    schedule, defaults = manifest.noise_schedule, manifest.defaults
    snr = ", zero terminal SNR" if schedule.zero_terminal_snr else ""
    yield f"{schedule.prediction}, {schedule.beta_schedule}, {schedule.spacing} spacing{snr}"
    yield (
        f"{defaults.sampler}, {defaults.sigmas} sigmas, {defaults.steps} steps, guidance {defaults.guidance:g}, "
        f"{defaults.width}x{defaults.height}"
    )


def latents_line(latents: Latents) -> str:
    """The line on the latents of an autoencoder alone."""
    return f"{latents.channels} channels, {latents.factor}x{latents.factor} pixels per latent"


def classes_line(classes: Classes) -> str:
    """The line on a model's classes: their number, the first names, and the class that stands for none."""
    first = "; ".join(f"{label} {names}" for label, names in enumerate(classes.names[:SHOWN_CLASSES]))
    without = "" if classes.unconditional is None else f"; {classes.unconditional} for none"
    return f"{classes.count} classes{f': {first} ...' if first else ''}{without}"


def preset_line(name: str, preset: Preset) -> str:
    """The line on a preset: its work and its loss, beside fewer steps that cost as much."""
    less = f"{preset.fewer_steps} steps {decibels(preset.fewer_loss)}"
    return (
        f"--preset {name}: {preset.share:.2f} of the UNet's work, {decibels(preset.loss)}; {less} "
        f"({preset.sampler}, {preset.steps} steps, guidance {preset.guidance:g})"
    )


def decibels(loss: PictureLoss) -> str:
    """The mean and the worst PSNR of pictures."""
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        return "no loss"
    return f"{loss.psnr_db:.1f} dB, worst {loss.worst_psnr_db:.1f}"


def quantization_lines(quantized: Quantization) -> Iterator[str]:
    """The lines on a component's quantization: layers in INT8, sizes, loss of pictures."""
    in_float = sum(layer.reason is not None for layer in quantized.layers)
    loss, before = quantized.loss, f"before {quantized.bytes_before / 1e6:.1f} MB"
    if in_float == len(quantized.layers):  # weights alone: the reasons say in how many bits
        counts = Counter(str(layer.reason) for layer in quantized.layers)
        yield f"  {'; '.join(f'{count} layers: {reason}' for reason, count in counts.most_common(3))}; {before}"
    else:
        yield (
            f"  for {quantized.target}: {quantized.share_of_layers:.1%} of its layers' MACs in INT8, "
            f"{quantized.share_of_graph:.1%} of all; {in_float} of {len(quantized.layers)} layers in float; {before}"
        )
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        yield f"  pictures: none of {loss.pictures} differs"
    else:
        yield (
            f"  pictures: PSNR {loss.psnr_db:.1f} dB, worst {loss.worst_psnr_db:.1f}; SSIM {loss.ssim:.4f}, worst "
            f"{loss.worst_ssim:.4f}; {loss.pictures} pictures, {len(loss.latents_error)} steps"
        )
