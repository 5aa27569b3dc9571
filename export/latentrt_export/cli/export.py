"""`latentrt export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.lora_option import lora_option
from latentrt.cli.output import as_json, echo, extra_of, print_json

if TYPE_CHECKING:
    from latentrt.lora.files import Lora

FOLDER = click.Path(path_type=Path, file_okay=False)
ANYTHING = click.Path(path_type=Path)


def words(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[Path, str | None]]:
    """The file and the token of each FILE:TOKEN, of FILE alone no token."""
    return [word_of(value) for value in values]


def word_of(value: str) -> tuple[Path, str | None]:
    """The file and the token that `value` names; a file whose name has a colon is one, where it is there."""
    file, colon, token = value.rpartition(":")
    return (Path(value), None) if not colon or Path(value).is_file() else (Path(file), token)


def named(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    """The name and the path of each NAME=PATH."""
    pairs = [value.partition("=") for value in values]
    for name, equals, path in pairs:
        if not (name and equals and path):
            raise click.BadParameter(f"got {name + equals + path!r}, expected NAME=PATH, such as canny=FOLDER")
    return [(name, Path(path)) for name, _, path in pairs]


@click.command()
@click.argument("checkpoint", type=ANYTHING)
@click.argument("out", type=FOLDER)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "w16"]),
    default="fp32",
    show_default=True,
    help="fp16 computes in half precision; w16 stores weights in fp16 and computes in fp32.",
)
@click.option("--name", help="The bundle's name.  [default: the checkpoint's]")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="The bundle's default steps.")
@click.option("--guidance", type=float, default=7.5, show_default=True, help="The bundle's default guidance.")
@click.option(
    "--prediction",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="What the UNet predicts.  [default: what the checkpoint says]",
)
@click.option(
    "--zero-snr/--no-zero-snr",
    default=None,
    help="Whether the last timestep is noise alone (zero terminal SNR); steps then begin there.  [default: likewise]",
)
@click.option(
    "--variant", metavar="NAME", help="Which of a folder's weights, such as fp16.  [default: the most precise]"
)
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read .ckpt, .bin and .pt as well: their tensors alone, in a process of its own that runs none of their code.",
)
@click.option("--vae", type=ANYTHING, metavar="PATH", help="A VAE to use in place of the checkpoint's.")
@click.option("--tiny-decoder", type=ANYTHING, metavar="PATH", help="A TAESD, for previews and --fast-decode.")
@lora_option("A LoRA to fuse, and how much of it.")
@click.option(
    "--embedding",
    "embeddings",
    callback=words,
    multiple=True,
    metavar="FILE[:TOKEN]",
    help="A textual inversion, and the word for it. May be repeated.",
)
@click.option(
    "--controlnet",
    "controls",
    callback=named,
    multiple=True,
    metavar="NAME=PATH",
    help="A ControlNet that is to steer the UNet, and what it is called. May be repeated.",
)
@click.option(
    "--t2i-adapter",
    "adapters",
    callback=named,
    multiple=True,
    metavar="NAME=PATH",
    help="A T2I-Adapter, likewise. May be repeated.",
)
@click.option(
    "--ip-adapter",
    "image_prompts",
    callback=named,
    multiple=True,
    metavar="NAME=FILE",
    help="An IP-Adapter by which images are to prompt the UNet, and what it is called. May be repeated.",
)
@click.option("--image-encoder", type=FOLDER, metavar="DIR", help="Theirs.  [default: image_encoder beside the first]")
@click.option("--tokenizer", type=FOLDER, metavar="DIR", help="A tokenizer to use in place of the checkpoint's.")
@click.option("--configs", type=FOLDER, metavar="DIR", help="For a single file: its unet, vae, ... .json.")
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
    """Export CHECKPOINT, a diffusers folder or a .safetensors file, to the bundle OUT.

    Every graph is run and compared with the original; OUT appears only if all are within their gates. Needs
    `pip install 'latentrt[export]'`.
    """
    check_paths(
        {
            "checkpoint": [checkpoint],
            "VAE": [options["vae"]],
            "tiny decoder": [options["tiny_decoder"]],
            "LoRA": [lora.file for lora in loras],
            "embedding": [file for file, _ in embeddings],
            "ControlNet": [path for _, path in controls],
            "T2I-Adapter": [path for _, path in adapters],
            "IP-Adapter": [path for _, path in image_prompts],
            "image encoder": [options["image_encoder"]],
            "tokenizer": [options["tokenizer"]],
        },
        out,
        **{name: options[name] for name in ("configs", "allow_pickle")},
    )
    with extra_of("export"):
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

    given: by the kinds of `latentrt_export.checkpoint.paths`.
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
