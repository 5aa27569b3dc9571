"""What an export is asked for besides the checkpoint, and how that is opened where it is a pickle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.bundle.folder import sha256_of
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.checkpoint.markers import Prediction
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.pickles import converted
from latentrt_export.graph.precision import FloatPrecision


@dataclass(frozen=True)
class ExportOptions:
    """What the checkpoint does not say: the bundle's precision, name and defaults, and where to find what is missing.

    tokenizer: a tokenizer folder to use in place of the checkpoint's. vae, configs: as in `load_checkpoint`. loras:
    the files to fuse, as in `with_loras`. tiny_decoder: one to add, as in `open_tiny_decoder`. embeddings: the files
    whose words are added, as in `with_embeddings`. controls, adapters: the networks by which images are to steer the
    UNet, as in `with_controls` and `with_adapters`. image_prompts, image_encoder: the IP-Adapters by which images are
    to prompt it, as in `with_image_prompts`. prediction, zero_snr: what the UNet predicts, and whether its last
    timestep is noise alone, in place of what the checkpoint says. variant: as in `load_checkpoint`. allow_pickle:
    whether pickles are read, as in `converted`.
    """

    precision: FloatPrecision = "fp32"
    name: str | None = None
    steps: int = 20
    guidance: float = 7.5
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

    @property
    def steering(self) -> tuple[NamedNetwork, ...]:
        """All by which images are to steer the UNet."""
        return (*self.controls, *self.adapters, *self.image_prompts)


def without_pickles(
    source: Path, options: ExportOptions, scratch: Path, progress: Callable[[str], None]
) -> tuple[Path, ExportOptions, dict[str, str]]:
    """Returns the checkpoint and the options with every pickle converted, and what a bundle says of those that were.

    scratch: the folder that they are converted into; nothing of it is needed once the export is done. Raises
    CheckpointError as `converted` does.
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
