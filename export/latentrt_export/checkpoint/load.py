"""Opening of checkpoints as torch modules: a diffusers folder, or one .safetensors file in the original CompVis layout.

Either may be a whole model or an autoencoder alone.

Opening reads only configs and headers, and checks every key, shape and type against the modules. A checkpoint that
opens therefore also loads, and each module can be loaded, exported and freed before the next: the peak of memory is the
largest module, not their sum. Nothing is downloaded, and no pickle is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.errors import CheckpointError
from latentrt.lora.change import Change
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.family import Family
from latentrt_export.checkpoint.first_stages import is_first_stage, open_first_stage
from latentrt_export.checkpoint.folder import name_of, open_folder
from latentrt_export.checkpoint.markers import Declared
from latentrt_export.checkpoint.match import ComponentSource, left_out, located
from latentrt_export.checkpoint.opened import OpenedCheckpoint
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.recognition import config_differences
from latentrt_export.checkpoint.single_file import open_file
from latentrt_export.checkpoint.stored import Stored, read_tensors
from latentrt_export.checkpoint.vae_file import vae_source
from latentrt_export.graph.precision import check_half
from latentrt_export.networks.component import Config
from latentrt_export.networks.half_weights import compute_in_float32, linear_weights
from latentrt_export.networks.known import may_hold_halves


@dataclass(frozen=True)
class Component:
    """One component of a checkpoint, not read yet: the stored tensor of each of its module's weights.

    changes: changes of weights, such as LoRAs, applied in order when they are read. appended: rows added to a weight.
    halves: whether weights of linear layers are held in half precision.
    """

    name: str
    config: Config
    weights: Mapping[str, Stored]
    changes: tuple[Change, ...] = ()
    appended: Mapping[str, tuple[Stored, ...]] = field(default_factory=dict)
    halves: bool = False

    def load(self) -> Any:
        """Returns a new module that computes in float32, in eval mode and without gradients.

        Raises FidelityError for a weight that is to be held in half precision and is beyond its range.
        """
        module = BUILDERS[self.name](self.config)
        halves = linear_weights(module) if self.halves else frozenset[str]()
        tensors = read_tensors(self.weights, halves - {one.weight for one in self.changes})
        for one in self.changes:
            tensors[one.weight] = torch.from_numpy(one.apply(tensors[one.weight].numpy()))
        for name, rows in self.appended.items():
            more = read_tensors({f"{place}": stored for place, stored in enumerate(rows)})
            width = tensors[name].shape[1]
            tensors[name] = torch.cat([tensors[name], *(more[f"{i}"].reshape(-1, width) for i in range(len(rows)))])
        for name in halves & tensors.keys():
            tensors[name] = tensors[name].half()
            check_half(name, tensors[name])
        module.load_state_dict(tensors, assign=True)
        compute_in_float32(module)
        return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, to be loaded one component at a time.

    source: name of its file or folder. components: by name (unet, vae, text_encoder, ...). scheduler: content of
    scheduler_config.json. tokenizers: tokenizer folders by name; none for a single file. zero_negative: a negative
    prompt that is not given means zeros, not an empty text. controls, adapters: ControlNets and T2I-Adapters by their
    names in requests. image_prompts: tensors of IP-Adapters by name; their image encoder is one of the components.
    declarations: about the schedule, by subject. left_out: unused keys. Each load makes a new module: float32, eval
    mode, no gradients.
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
    declarations: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def in_halves(self) -> Checkpoint:
        """The checkpoint, with linear layers held in half precision where that loses nothing in w16."""
        components = {
            name: replace(one, halves=may_hold_halves(name, one.config)) for name, one in self.components.items()
        }
        return replace(self, components=components)

    @property
    def draws(self) -> bool:
        """True for a model that draws pictures, False for an autoencoder alone."""
        return self.family.denoiser is not None

    @property
    def denoiser(self) -> Component:
        """The component that denoises, of a model that draws pictures."""
        assert self.family.denoiser is not None
        return self.components[self.family.denoiser]

    def load_unet(self) -> UNet2DConditionModel | UNet2DModel:
        """Returns the UNet; raises CheckpointError when its file has changed since the checkpoint was opened."""
        return self.components["unet"].load()

    def load_vae(self) -> AutoencoderKL | VQModel:
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
    overrides: Declared | None = None,
) -> Checkpoint:
    """Returns the checkpoint at `path`, with every tensor found and none read yet.

    path: a diffusers folder (.safetensors weights: plain, sharded or of a variant), or one .safetensors file in the
    CompVis layout; a whole model, or an autoencoder alone.
    configs: for a single file of other widths, a folder with unet.json, vae.json, text_encoder.json and
    scheduler.json, or the name of one that ships with the package. vae: a VAE in place of the checkpoint's: a diffusers
    folder, or a .safetensors file in the CompVis layout or diffusers'. variant: variant of a folder's weights, such as
    fp16. overrides: declarations that override those of the checkpoint, as of `markers.declared_by_options`. Raises
    CheckpointError for files that are missing, damaged, unsafe or of no supported family.

    >>> load_checkpoint(Path("v1-5-pruned-emaonly.safetensors")).load_unet()  # doctest: +SKIP
    """
    overrides = overrides or Declared()
    check_there("checkpoint", path)
    try:
        opened = opened_at(path, configs, variant, overrides)
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
        declarations=opened.declarations,
        left_out=unread(opened, sources, components),
    )


def opened_at(path: Path, configs: Path | None, variant: str | None, overrides: Declared) -> OpenedCheckpoint:
    """Returns the sources of a folder, a file, or an autoencoder alone in either."""
    if is_first_stage(path):
        return open_first_stage(path, configs, variant)
    return open_folder(path, configs, variant, overrides) if path.is_dir() else open_file(path, configs, overrides)


def with_vae(opened: OpenedCheckpoint, vae: Path, variant: str | None) -> dict[str, ComponentSource]:
    """Returns the sources of all components, with another VAE. Raises CheckpointError for a VAE that does not fit."""
    source = vae_source(vae, opened.sources["vae"].config, variant)
    sources = {**opened.sources, "vae": source}
    differences = config_differences(opened.family, {name: one.config for name, one in sources.items()})
    if differences:
        raise CheckpointError(
            f"--vae {vae} (vae= in Python) does not fit: {'; '.join(differences)}. Give a VAE of this family"
        )
    return sources


def matched(name: str, source: ComponentSource) -> Component:
    """Returns the component, with every tensor of its module found. Raises CheckpointError with all misfits."""
    return Component(name, source.config, located(name, source))


def unread(
    opened: OpenedCheckpoint, sources: Mapping[str, ComponentSource], components: Mapping[str, Component]
) -> tuple[str, ...]:
    """Returns the keys of a checkpoint that no component reads, grouped by prefix."""
    keys = [stored.key for source in sources.values() for stored in source.tensors.values()]
    used = [stored.key for component in components.values() for stored in component.weights.values()]
    return tuple(left_out([*opened.others, *keys], used))
