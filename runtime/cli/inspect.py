"""`latentrt inspect`: what a bundle holds, or how a picture was made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, echo, print_json

if TYPE_CHECKING:
    from latentrt.bundle import Bundle
    from latentrt.quantization import Quantization


@click.command()
@click.argument("path")
@as_json
def inspect(path: str, as_json: bool) -> None:
    """Show what PATH holds: a bundle's folder, a built-in model's name, or a PNG made by latentrt."""
    if path.lower().endswith(".png"):
        from latentrt.metadata import read_png

        show(read_png(Path(path)), as_json)
        return
    from latentrt.bundle import open_bundle
    from latentrt.pipeline import folder_of

    bundle = open_bundle(folder_of(path), verify=False)
    if as_json:
        print_json({"sha256": bundle.sha256, **asdict(bundle.manifest)})
    else:
        echo("\n".join(lines_of(bundle)))


def show(record: dict[str, Any], as_json: bool) -> None:
    """Prints a picture's record, a line an entry unless as JSON."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, record))
    for key, value in record.items():
        echo(f"{key:{width}} {value}")


def lines_of(bundle: Bundle) -> Iterator[str]:
    """A bundle on one screen."""
    manifest = bundle.manifest
    schedule, defaults = manifest.schedule, manifest.defaults
    snr = ", zero terminal SNR" if schedule.zero_terminal_snr else ""
    yield f"{manifest.name}  {manifest.family}  {', '.join(manifest.tasks)}  {bundle.sha256[:10]}"
    yield f"{schedule.prediction}, {schedule.beta_schedule}, {schedule.spacing} spacing{snr}"
    yield (
        f"{defaults.sampler}, {defaults.sigmas} sigmas, {defaults.steps} steps, guidance {defaults.guidance:g}, "
        f"{defaults.width}x{defaults.height}"
    )
    for name, component in manifest.components.items():
        size = sum(manifest.files[file].bytes for file in (component.file, *component.data))
        psnr = component.fidelity.psnr_db
        loss, when = "exact" if psnr is None else f"{psnr:.1f} dB", " in float" if component.quantization else ""
        yield ""
        yield f"{name}  {component.precision}  {size / 1e6:.1f} MB  {loss}{when}"
        if component.quantization is not None:
            yield from quantization_lines(component.quantization)
        for arrow, specs in (("<-", component.inputs), ("->", component.outputs)):
            yield from (f"  {arrow} {spec}" for spec in specs)


def quantization_lines(quantized: Quantization) -> Iterator[str]:
    """What is quantized, and what that costs."""
    kept = sum(layer.reason is not None for layer in quantized.layers)
    loss = quantized.loss
    yield (
        f"  for {quantized.target}: {quantized.share_of_layers:.1%} of its layers' MACs in INT8, "
        f"{quantized.share_of_graph:.1%} of all; {kept} of {len(quantized.layers)} layers in float; "
        f"before {quantized.bytes_before / 1e6:.1f} MB"
    )
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        yield f"  pictures: none of {loss.pictures} differs"
    else:
        yield (
            f"  pictures: PSNR {loss.psnr_db:.1f} dB, worst {loss.worst_psnr_db:.1f}; SSIM {loss.ssim:.4f}, worst "
            f"{loss.worst_ssim:.4f}; {loss.pictures} pictures, {len(loss.latents_error)} steps"
        )
