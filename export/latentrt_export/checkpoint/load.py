"""Opens checkpoints as torch modules: a diffusers folder, or one .safetensors file in the original CompVis layout.

Opening reads configs and headers only, and holds every key, shape and type against the modules they are for. So what
opened loads whole, and each module can be loaded, exported and freed before the next: the peak is the largest module,
not their sum. Nothing here can reach a network, and no pickle is ever opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.errors import CheckpointError
from latentrt.lora.change import Change
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.families import Family
from latentrt_export.checkpoint.folder import name_of, open_folder
from latentrt_export.checkpoint.markers import Declared
from latentrt_export.checkpoint.match import ComponentSource, left_out, located
from latentrt_export.checkpoint.opened import OpenedCheckpoint
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.recognition import config_differences
from latentrt_export.checkpoint.single_file import open_file
from latentrt_export.checkpoint.stored import Stored, read_tensors
from latentrt_export.checkpoint.vae_file import vae_source
from latentrt_export.networks.component import Config


@dataclass(frozen=True)
class Component:
    """One component of a checkpoint, not read yet: for each tensor of its module, the place where it is stored.

    changes: what is made of its weights as they are read, in order. appended: the rows that follow those of a weight.
    """

    name: str
    config: Config
    weights: Mapping[str, Stored]
    changes: tuple[Change, ...] = ()
    appended: Mapping[str, tuple[Stored, ...]] = field(default_factory=dict)

    def load(self) -> Any:
        """Returns a new module, its weights in float32, in eval mode and without gradients."""
        module = BUILDERS[self.name](self.config)
        tensors = read_tensors(self.weights)
        for one in self.changes:
            tensors[one.weight] = torch.from_numpy(one.apply(tensors[one.weight].numpy()))
        for name, rows in self.appended.items():
            more = read_tensors({f"{place}": stored for place, stored in enumerate(rows)})
            width = tensors[name].shape[1]
            tensors[name] = torch.cat([tensors[name], *(more[f"{i}"].reshape(-1, width) for i in range(len(rows)))])
        module.load_state_dict(tensors, assign=True)
        return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint found whole, to be loaded one component at a time.

    `source` is the name of its file or folder, `components` are by name (unet, vae, text_encoder, ...), `scheduler` is
    the content of its scheduler_config.json, and `tokenizers` its tokenizer folders by their names, none for a single
    file. `zero_negative`: whether no negative prompt means zeros, not an empty text. `controls`, `adapters`: the
    networks by which images are to steer the UNet, by the names that they are asked for by. `image_prompts`: likewise
    the tensors of IP-Adapters, whose encoder is among the components. `said`: what it declares of its schedule, by
    name. `left_out`: what it holds and nothing here reads. Each load makes a new module: float32, eval mode, no
    gradients.
    """

    source: str
    family: Family
    components: Mapping[str, Component]
    scheduler: dict[str, Any]
    tokenizers: Mapping[str, Path]
    zero_negative: bool = False
    controls: Mapping[str, Component] = field(default_factory=dict)
    adapters: Mapping[str, Component] = field(default_factory=dict)
    image_prompts: Mapping[str, Mapping[str, Stored]] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def load_unet(self) -> UNet2DConditionModel:
        """Returns the UNet; raises CheckpointError when its file has changed since the checkpoint was opened."""
        return self.components["unet"].load()

    def load_vae(self) -> AutoencoderKL:
        """Returns the VAE; raises CheckpointError when its file has changed since the checkpoint was opened."""
        return self.components["vae"].load()

    def load_text_encoder(self, name: str = "text_encoder") -> CLIPTextModel | CLIPTextModelWithProjection:
        """Returns a text encoder; raises CheckpointError when its file has changed since it was opened."""
        return self.components[name].load()


def load_checkpoint(
    path: Path,
    *,
    configs: Path | None = None,
    vae: Path | None = None,
    variant: str | None = None,
    asked: Declared | None = None,
) -> Checkpoint:
    """Returns the checkpoint at `path`, its every tensor accounted for and none read yet.

    path: a diffusers folder (.safetensors weights: plain, sharded or of a variant), or one .safetensors file in the
    CompVis layout. configs: for a single file of other widths, a folder with unet.json, vae.json, text_encoder.json and
    scheduler.json, or the name of one that ships with the package. vae: a VAE to use in place of the checkpoint's, a
    diffusers VAE folder or a .safetensors file in the CompVis layout or diffusers'. variant: which weights of a folder
    are meant, such as fp16, where it has them. asked: what overrules what the checkpoint says of its schedule, as
    `markers.asked`. Raises CheckpointError for whatever is missing, damaged, unsafe or of no supported family.

    >>> load_checkpoint(Path("v1-5-pruned-emaonly.safetensors")).load_unet()  # doctest: +SKIP
    """
    asked = asked or Declared()
    check_there("checkpoint", path)
    try:
        folder = path.is_dir()
        opened = open_folder(path, configs, variant, asked) if folder else open_file(path, configs, asked)
        sources = opened.sources if vae is None else with_vae(opened, vae, variant)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read ({error.strerror or error})") from error
    components = {name: matched(name, source) for name, source in sources.items()}
    return Checkpoint(
        name_of(path),
        opened.family,
        components,
        opened.scheduler,
        opened.tokenizers,
        opened.zero_negative,
        said=opened.said,
        left_out=unread(opened, sources, components),
    )


def with_vae(opened: OpenedCheckpoint, vae: Path, variant: str | None) -> dict[str, ComponentSource]:
    """Returns what a checkpoint has for each component, with another VAE. Raises CheckpointError for one unlike it."""
    source = vae_source(vae, opened.sources["vae"].config, variant)
    sources = {**opened.sources, "vae": source}
    differences = config_differences(opened.family, {name: one.config for name, one in sources.items()})
    if differences:
        raise CheckpointError(
            f"--vae {vae} (vae= in Python) does not fit: {'; '.join(differences)}. Give a VAE of this family"
        )
    return sources


def matched(name: str, source: ComponentSource) -> Component:
    """Returns the component with every tensor of its module found in the source; raises with all that does not fit."""
    return Component(name, source.config, located(name, source))


def unread(
    opened: OpenedCheckpoint, sources: Mapping[str, ComponentSource], components: Mapping[str, Component]
) -> tuple[str, ...]:
    """Returns what a checkpoint holds and no component reads, each kind once."""
    keys = [key for source in sources.values() for key in source.tensors]
    used = [stored.key for component in components.values() for stored in component.weights.values()]
    return tuple(left_out([*opened.others, *keys], used))
