"""`latentrt export`: a checkpoint is converted to a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.lora_option import lora_option
from latentrt.cli.output import as_json, echo, extra_of, print_json

if TYPE_CHECKING:
    from latentrt.bundle.manifest import Manifest
    from latentrt.lora.files import Lora

FOLDER = click.Path(path_type=Path, file_okay=False)
ANYTHING = click.Path(path_type=Path)


def embeddings_of(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[Path, str | None]]:
    """The file and the token of each FILE:TOKEN; the token is None for FILE alone."""
    return [embedding_of(value) for value in values]


def embedding_of(value: str) -> tuple[Path, str | None]:
    """The file and the token of FILE:TOKEN. An existing file whose name has a colon counts as FILE alone."""
    file, colon, token = value.rpartition(":")
    return (Path(value), None) if not colon or Path(value).is_file() else (Path(file), token)


def named_paths(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, Path]]:
    """The name and the path of each NAME=PATH."""
    pairs = [value.partition("=") for value in values]
    for name, equals, path in pairs:
        if not (name and equals and path):
            raise click.BadParameter(f"got {name + equals + path!r}, expected NAME=PATH, such as canny=FOLDER")
    return [(name, Path(path)) for name, _, path in pairs]


# Options that are one path, and the kind of input.
SINGLE_PATHS = {
    "vae": "VAE",
    "tiny_decoder": "tiny decoder",
    "image_encoder": "image encoder",
    "tokenizer": "tokenizer",
}
GROUPS = {
    "Bundle": ("precision", "name", "steps", "guidance", "step_cache"),
    "Checkpoint": ("variant", "vae", "tokenizer", "configs", "prediction", "zero_snr", "allow_pickle"),
    "Added networks and words": (
        *("loras", "embeddings", "controls", "adapters", "image_prompts", "image_encoder", "tiny_decoder"),
    ),
}


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("checkpoint", type=ANYTHING)
@click.argument("out", type=FOLDER)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "w16", "w4"]),
    default="fp32",
    show_default=True,
    help="fp16: half floats. w16: weights stored as fp16, computed in fp32. w4: linear layers stored in 4 bits, whose "
    "loss `latentrt calibrate --precision w4` measures and limits.",
)
@click.option("--name", help="Name of the bundle.  [default: name of the checkpoint]")
@click.option("--steps", type=click.IntRange(min=1), help="Default denoising steps.  [default: the family's]")
@click.option("--guidance", type=float, help="Default guidance scale; 1 is off.  [default: the family's]")
@click.option(
    "--step-cache",
    type=click.IntRange(min=1),
    metavar="BOUNDARY",
    help="Add a shallow UNet for step caching: 2 is careful, 1 is fast.",
)
@click.option(
    "--prediction",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="Prediction type of the UNet.  [default: the checkpoint's]",
)
@click.option(
    "--zero-snr/--no-zero-snr", default=None, help="Zero terminal SNR, trailing steps.  [default: the checkpoint's]"
)
@click.option("--variant", metavar="NAME", help="Variant of a folder's weights: fp16, ...  [default: most precise]")
@click.option("--allow-pickle", is_flag=True, help="Read .ckpt, .bin and .pt: tensors only, in a separate process.")
@click.option("--vae", type=ANYTHING, metavar="PATH", help="VAE in place of the checkpoint's: folder or file.")
@click.option("--tiny-decoder", type=ANYTHING, metavar="PATH", help="TAESD for previews and --fast-decode.")
@lora_option("LoRA to fuse into the weights.")
@click.option(
    "--embedding",
    "embeddings",
    callback=embeddings_of,
    multiple=True,
    metavar="FILE[:TOKEN]",
    help="Textual inversion and its word in prompts. Repeatable.",
)
@click.option(
    "--controlnet",
    "controls",
    callback=named_paths,
    multiple=True,
    metavar="NAME=PATH",
    help="ControlNet, folder or file, and its name in requests. Repeatable.",
)
@click.option(
    "--t2i-adapter",
    "adapters",
    callback=named_paths,
    multiple=True,
    metavar="NAME=DIR",
    help="T2I-Adapter and its name in requests. Repeatable.",
)
@click.option(
    "--ip-adapter",
    "image_prompts",
    callback=named_paths,
    multiple=True,
    metavar="NAME=FILE",
    help="IP-Adapter and its name in requests. Repeatable.",
)
@click.option(
    "--image-encoder",
    type=FOLDER,
    metavar="DIR",
    help="CLIP image encoder of the IP-Adapters.  [default: image_encoder beside the first]",
)
@click.option("--tokenizer", type=FOLDER, metavar="DIR", help="Tokenizer folder in place of the checkpoint's.")
@click.option("--configs", type=FOLDER, metavar="DIR", help="Configs of a single file: unet.json, vae.json, ...")
@as_json
def export(
    checkpoint: Path,
    out: Path,
    as_json: bool,
    loras: list[Lora],
    embeddings: list[tuple[Path, str | None]],
    controls: list[tuple[str, Path]],
    adapters: list[tuple[str, Path]],
    image_prompts: list[tuple[str, Path]],
    **options: Any,
) -> None:
    """Export CHECKPOINT to the bundle OUT.

    A bundle is a folder with the model's ONNX graphs and one bundle.json; all other commands read it, without torch.
    CHECKPOINT is a diffusers folder or one .safetensors file of Stable Diffusion 1.x, 2.x or XL, or of the latent
    diffusion paper (docs/ldm.md). Nothing is downloaded.

    \b
    latentrt export model.safetensors my-bundle --precision w16
    latentrt generate "a red apple" --bundle my-bundle

    Every graph is run and compared with the original; a loss above the precision's limit (docs/export.md) is an error,
    and OUT is written only if all pass. Stable Diffusion 1.5 takes 2 to 4 minutes on 2 CPU cores, 7 GB of memory and
    2 GB (fp16, w16) or 4 GB (fp32) of disk. Needs `pip install 'latentrt[cpu,export]'`.
    """
    networks = {"ControlNet": controls, "T2I-Adapter": adapters, "IP-Adapter": image_prompts}
    inputs: dict[str, Sequence[Path | None]] = {
        "checkpoint": [checkpoint],
        **{kind: [options[name]] for name, kind in SINGLE_PATHS.items()},
        "LoRA": [lora.file for lora in loras],
        "embedding": [file for file, _ in embeddings],
        **{kind: [path for _, path in pairs] for kind, pairs in networks.items()},
    }
    check_paths(inputs, out, configs=options["configs"], allow_pickle=options["allow_pickle"])
    with extra_of("export"):
        if find_spec("torch"):
            echo("importing torch", err=True)  # half a minute on a busy machine
        from latentrt_export.checkpoint.embeddings import Embedding
        from latentrt_export.checkpoint.named import NamedNetwork
        from latentrt_export.export import ExportOptions
        from latentrt_export.export import export as write_bundle

    chosen = ExportOptions(
        **options,
        loras=tuple(loras),
        embeddings=tuple(Embedding(file, token) for file, token in embeddings),
        controls=tuple(NamedNetwork(name, path) for name, path in controls),
        adapters=tuple(NamedNetwork(name, path) for name, path in adapters),
        image_prompts=tuple(NamedNetwork(name, path) for name, path in image_prompts),
    )
    manifest = write_bundle(checkpoint, out, chosen, progress=lambda line: echo(line, err=True))
    show(manifest, out, as_json)


def show(manifest: Manifest, out: Path, as_json: bool) -> None:
    """Prints the loss of each component and the bundle's folder."""
    losses = {name: asdict(component.fidelity) for name, component in manifest.components.items()}
    if as_json:
        print_json({"bundle": str(out), "name": manifest.name, "components": losses})
        return
    for name, loss in losses.items():
        psnr = "exact" if loss["psnr_db"] is None else f"{loss['psnr_db']:.1f} dB"
        echo(f"{name:14} relative error {loss['relative_error']:.1e}, {psnr}")
    echo(out)


def check_paths(
    given: Mapping[str, Sequence[Path | None]], out: Path, *, configs: Path | None, allow_pickle: bool
) -> None:
    """Raises CheckpointError or OutputError for a path that cannot be used, before torch takes seconds to import.

    given: paths by their kind, a key of `latentrt_export.checkpoint.paths.KINDS`.
    """
    from latentrt.storage.atomic import refuse_existing
    from latentrt_export.checkpoint.paths import check_configs, check_there

    for kind, paths in given.items():
        for path in paths:
            if path is not None:
                check_there(kind, path, allow_pickle=allow_pickle)
    if configs is not None:
        check_configs(configs)
    refuse_existing(out)
