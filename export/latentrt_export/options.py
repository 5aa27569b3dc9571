"""Options of an export: the files that are added to a checkpoint, the order of adding them, and pickles among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from latentrt.bundle.folder import sha256_of
from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.adapters import with_adapters
from latentrt_export.checkpoint.controls import with_controls
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.checkpoint.image_prompts import with_image_prompts
from latentrt_export.checkpoint.load import Checkpoint
from latentrt_export.checkpoint.lora import with_loras
from latentrt_export.checkpoint.markers import Prediction
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.pickles import converted
from latentrt_export.graph.precision import ExportPrecision


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    precision, name, steps, guidance: the bundle's precision, name and default steps and guidance, by default those of
    the family. tokenizer: folder of a tokenizer in place of the checkpoint's. vae, configs, variant: as in
    `load_checkpoint`. loras: LoRAs to fuse, as in `with_loras`. tiny_decoder: a TAESD to add, as in
    `open_tiny_decoder`. embeddings: textual inversions, as in `with_embeddings`. controls, adapters: ControlNets and
    T2I-Adapters, as in `with_controls` and `with_adapters`. image_prompts, image_encoder: IP-Adapters and their image
    encoder, as in `with_image_prompts`. prediction, zero_snr: prediction type and zero terminal SNR, in place of the
    checkpoint's. allow_pickle: read pickles, as `converted` does. step_cache: the boundary of a shallow UNet to add, as
    in `with_step_cache`; None for none.
    """

    precision: ExportPrecision = "fp32"
    name: str | None = None
    steps: int | None = None
    guidance: float | None = None
    tokenizer: Path | None = None
    vae: Path | None = None
    configs: Path | None = None
    loras: tuple[Lora, ...] = ()
    tiny_decoder: Path | None = None
    embeddings: tuple[Embedding, ...] = ()
    controls: tuple[NamedNetwork, ...] = ()
    adapters: tuple[NamedNetwork, ...] = ()
    image_prompts: tuple[NamedNetwork, ...] = ()
    image_encoder: Path | None = None
    prediction: Prediction | None = None
    zero_snr: bool | None = None
    variant: str | None = None
    allow_pickle: bool = False
    step_cache: int | None = None

    @property
    def steering(self) -> tuple[NamedNetwork, ...]:
        """All control networks: ControlNets, T2I-Adapters and IP-Adapters."""
        return (*self.controls, *self.adapters, *self.image_prompts)


# Options that an autoencoder alone takes; all others are about drawing pictures.
OF_AUTOENCODERS = ("precision", "name", "configs", "variant", "allow_pickle")
# Names of options that are not those of their field.
NAMES = {
    "loras": "--lora",
    "embeddings": "--embedding",
    "controls": "--controlnet",
    "adapters": "--t2i-adapter",
    "image_prompts": "--ip-adapter",
}


def refuse_pictures(options: ExportOptions) -> None:
    """Raises CheckpointError for an option that an autoencoder alone does not take."""
    for one in fields(options):
        if one.name not in OF_AUTOENCODERS and getattr(options, one.name) != one.default:
            name = NAMES.get(one.name, f"--{one.name.replace('_', '-')}")
            raise CheckpointError(
                f"{name}: got it for an autoencoder alone, which draws no pictures; leave it out, or "
                "export a whole model"
            )


# What changes or steers a UNet: its layers' names or its levels are meant.
OF_UNETS = ("loras", "embeddings", "controls", "adapters", "image_prompts", "image_encoder", "step_cache")


def refuse_for_transformers(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Raises CheckpointError for an option that a model whose denoiser is a transformer does not take."""
    if checkpoint.family.denoiser != "transformer":
        return
    taken = ("loras",) if checkpoint.family.loras else ()
    for one in fields(options):
        if one.name in OF_UNETS and one.name not in taken and getattr(options, one.name) != one.default:
            name = NAMES.get(one.name, f"--{one.name.replace('_', '-')}")
            raise CheckpointError(
                f"{name}: got it for {checkpoint.source}, of the family {checkpoint.family.name}, whose denoiser is a "
                "transformer; expected a model with a UNet. Leave it out"
            )


def with_networks(checkpoint: Checkpoint, options: ExportOptions) -> Checkpoint:
    """Returns the checkpoint with all files of the options but the embeddings added, in the order that they need.

    1. LoRAs, which are matched with the checkpoint's own components and weights only.
    2. ControlNets and T2I-Adapters, which are compared with the UNet's config.
    3. IP-Adapters, whose image encoder becomes one more component.
    4. Embeddings, which the caller adds last by `with_embeddings`: they need the tokenizer, and they lengthen the
       table of tokens that LoRAs are matched with.

    Raises CheckpointError for a file that does not fit the checkpoint.
    """
    checkpoint = with_loras(checkpoint, options.loras)
    checkpoint = with_controls(checkpoint, options.controls)
    checkpoint = with_adapters(checkpoint, options.adapters)
    return with_image_prompts(checkpoint, options.image_prompts, options.image_encoder)


def without_pickles(
    source: Path, options: ExportOptions, scratch: Path, progress: Callable[[str], None]
) -> tuple[Path, ExportOptions, dict[str, str]]:
    """Returns the checkpoint's path and the options with every pickle converted, and provenance of those pickles.

    scratch: folder for the converted files, which may be removed after the export. Raises CheckpointError as
    `converted` does.
    """
    read = dict[str, str]()

    def opened(path: Path) -> Path:
        found = converted(path, scratch, options.variant)
        if found != path:
            progress(f"{path.name}: read as a pickle, in a process of its own")
            digest = f", sha256 {sha256_of(path)}" if path.is_file() else ""
            read[f"pickle {len(read) + 1}"] = f"{path.name}{digest}"
        return found

    def opened_all(networks: tuple[NamedNetwork, ...]) -> tuple[NamedNetwork, ...]:
        return tuple(replace(one, path=opened(one.path)) for one in networks)

    chosen = replace(
        options,
        vae=options.vae and opened(options.vae),
        tiny_decoder=options.tiny_decoder and opened(options.tiny_decoder),
        image_encoder=options.image_encoder and opened(options.image_encoder),
        loras=tuple(replace(one, file=opened(one.file)) for one in options.loras),
        embeddings=tuple(replace(one, file=opened(one.file)) for one in options.embeddings),
        controls=opened_all(options.controls),
        adapters=opened_all(options.adapters),
        image_prompts=opened_all(options.image_prompts),
    )
    return opened(source), chosen, read
