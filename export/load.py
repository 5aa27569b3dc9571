"""Opens checkpoints as torch modules: a diffusers folder, or one .safetensors file in the original CompVis layout.

Opening reads configs and headers only, and holds every key, shape and type against the modules they are for. So what
opened loads whole, and each module can be loaded, exported and freed before the next: the peak is the largest module,
not their sum. Nothing here can reach a network, and no pickle is ever opened.
"""

import bisect
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.errors import CheckpointError, first_few
from latentrt.export import families
from latentrt.export.builders import BUILDERS
from latentrt.export.families import Config, Configs, Family, Shape, Tensors
from latentrt.lora.change import Change

FLOATS = ("F32", "F16", "BF16")
# The entry of model_index.json that says whether no negative prompt means zeros.
ZERO_NEGATIVE = "force_zeros_for_empty_prompt"
BATCH_BYTES = 1 << 27
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
STEMS = dict.fromkeys(("unet", "vae", "controlnet", "t2i_adapter"), "diffusion_pytorch_model")  # else "model"
# The names of a component's weights in a diffusers folder, the most precise first.
WEIGHTS = ("{}.safetensors", "{}.safetensors.index.json", "{}.fp16.safetensors", "{}.safetensors.index.fp16.json")
# What training and older versions left behind, and no module has.
IGNORED = re.compile(r"(^|\.)(position_ids$|loss\.|model_ema\.)")
# AutoencoderKL's attention before diffusers 0.12, as in the published Stable Diffusion 1.5.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Stored:
    """A tensor in a .safetensors file, or some rows of it: where it lies, its type as named there, its shape.

    row: the first that is meant. turned: whether rows are columns in the file. In what a component names, `shape` is
    the one that the tensor is to have.
    """

    file: Path
    key: str
    dtype: str
    shape: Shape
    row: int = 0
    turned: bool = False


@dataclass(frozen=True)
class Source:
    """What a checkpoint has for one component: its config, its tensors, and how their keys become the module's."""

    place: str
    config: Config
    tensors: Mapping[str, Stored]
    convert: Callable[[Tensors, Config], Tensors]
    unread: str | None = None


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
        tensors = read(self.weights)
        for one in self.changes:
            tensors[one.weight] = torch.from_numpy(one.apply(tensors[one.weight].numpy()))
        for name, rows in self.appended.items():
            more = read({f"{place}": stored for place, stored in enumerate(rows)})
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
    the tensors of IP-Adapters, whose encoder is among the components. Each load makes a new module: float32, eval mode,
    no gradients.
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

    def load_unet(self) -> UNet2DConditionModel:
        """Returns the UNet; raises CheckpointError when its file has changed since the checkpoint was opened."""
        return self.components["unet"].load()

    def load_vae(self) -> AutoencoderKL:
        """Returns the VAE; raises CheckpointError when its file has changed since the checkpoint was opened."""
        return self.components["vae"].load()

    def load_text_encoder(self, name: str = "text_encoder") -> CLIPTextModel | CLIPTextModelWithProjection:
        """Returns a text encoder; raises CheckpointError when its file has changed since it was opened."""
        return self.components[name].load()


def load_checkpoint(path: Path, *, configs: Path | None = None, vae: Path | None = None) -> Checkpoint:
    """Returns the checkpoint at `path`, its every tensor accounted for and none read yet.

    path: a diffusers folder (.safetensors weights: plain, sharded or fp16), or one .safetensors file in the CompVis
    layout. configs: for a single file of other widths, a folder with unet.json, vae.json, text_encoder.json and
    scheduler.json, or the name of one that ships with the package. vae: a VAE to use in place of the checkpoint's, a
    diffusers VAE folder or a .safetensors file in the CompVis layout. Raises CheckpointError for whatever is missing,
    damaged, unsafe or of no supported family.

    >>> load_checkpoint(Path("v1-5-pruned-emaonly.safetensors")).load_unet()  # doctest: +SKIP
    """
    if path.is_dir():
        return _open_folder(path, configs, vae)
    if path.is_file():
        return _open_file(path, configs, vae)
    raise CheckpointError(
        f"no checkpoint at {path}: expected a diffusers folder or a .safetensors file. Nothing is downloaded here, so "
        "fetch it first, for example with: hf download OWNER/NAME --local-dir FOLDER"
    )


def _open_folder(path: Path, configs: Path | None, vae: Path | None) -> Checkpoint:
    if configs is not None:
        raise CheckpointError(f"got configs={configs} for the folder {path}, which has its own: leave it out")
    if not (path / "model_index.json").is_file():
        state = "has no model_index.json" if any(path.iterdir()) else "is empty"
        raise CheckpointError(
            f"{path} {state}: expected a diffusers folder (model_index.json, unet, vae, …). Give that"
        )
    index = _read_json(path / "model_index.json")

    def differences(family: Family) -> list[str]:
        got = index.get("_class_name")
        if got not in family.pipelines:
            return [f"_class_name in its model_index.json is {got!r}, expected {' or '.join(family.pipelines)}"]
        listed = [name for name in families.PARTS if index.get(name, [None])[0]]
        if set(listed) != family.slots.keys():
            return [f"its model_index.json names {', '.join(listed)}, expected {', '.join(family.slots)}"]
        if index.get("is_cosxl_edit"):  # whose images are latents of unit variance, and whose schedule is EDM's
            return ["is_cosxl_edit in its model_index.json is true, expected false"]
        return families.config_differences(
            family, {name: _read_json(path / name / "config.json") for name in family.slots}
        )

    family = families.recognise(_name(path), differences)
    tokenizers = {encoder.tokenizer: path / encoder.tokenizer for encoder in family.encoders.values()}
    for name, folder in tokenizers.items():
        if not folder.is_dir():
            raise CheckpointError(f"{path} has no {name} folder: expected {folder}, fetch it as well")
    sources = {name: folder_source(path / name, name) for name in family.slots}
    scheduler = _read_json(path / "scheduler" / "scheduler_config.json")
    zero = index.get(ZERO_NEGATIVE, family.zero_negative)
    return Checkpoint(_name(path), family, _components(family, sources, vae), scheduler, tokenizers, zero)


def _open_file(path: Path, configs: Path | None, vae: Path | None) -> Checkpoint:
    tensors = header(path)
    shapes = {key: stored.shape for key, stored in tensors.items()}

    def differences(family: Family) -> list[str]:
        folder = _configs_folder(family, configs, shapes)
        absent = [file for file in map("{}.json".format, (*family.slots, "scheduler")) if not (folder / file).is_file()]
        if absent:
            return [f"{folder} has no {first_few(absent)}"]
        known = _local_configs(family, configs, shapes)
        return families.config_differences(family, known) + families.shape_differences(family, shapes, known)

    family = families.recognise(_name(path), differences, look=families.likeness(shapes))
    known = _local_configs(family, configs, shapes)
    sources = {
        name: Source(f"{path} ({slot.prefix}*)", known[name], under(slot.prefix, tensors), slot.convert, slot.unread)
        for name, slot in family.slots.items()
    }
    components = _components(family, sources, vae)
    return Checkpoint(_name(path), family, components, dict(known["scheduler"]), {}, family.zero_negative)


def _components(family: Family, sources: Mapping[str, Source], vae: Path | None) -> dict[str, Component]:
    if vae is not None:
        sources = {**sources, "vae": _vae_source(family, vae, sources["vae"].config)}
        differences = families.config_differences(family, {name: source.config for name, source in sources.items()})
        if differences:
            raise CheckpointError(f"vae={vae} does not fit: {'; '.join(differences)}. Give a VAE of this family")
    return {name: matched(name, source) for name, source in sources.items()}


def _vae_source(family: Family, path: Path, config: Config) -> Source:
    if path.is_dir():
        return folder_source(path, "vae")
    if not path.is_file():
        raise CheckpointError(f"no VAE at {path}: expected a diffusers VAE folder or a .safetensors file")
    slot, tensors = family.slots["vae"], header(path)
    return Source(f"{path}", config, under(slot.prefix, tensors) or tensors, slot.convert)


def folder_source(folder: Path, name: str) -> Source:
    """Returns what a diffusers folder has for the component of that name. Raises CheckpointError for what it lacks."""
    config = _read_json(folder / "config.json")
    tensors = {
        key: stored for file in _weight_files(folder, STEMS.get(name, "model")) for key, stored in header(file).items()
    }
    return Source(f"{folder}", config, tensors, _folder_keys)


def _folder_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors of a diffusers folder under the names that today's modules have for them."""
    old = re.compile(r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
    return families.text_keys({old.sub(lambda m: OLD_ATTENTION[m[0]], key): t for key, t in tensors.items()}, config)


def _weight_files(folder: Path, stem: str) -> list[Path]:
    for name in WEIGHTS:
        file = folder / name.format(stem)
        if file.is_file():
            return _shards(file) if file.suffix == ".json" else [file]
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
    if not pickles:
        raise CheckpointError(f"{folder} has no weights: expected {stem}.safetensors, fetch the checkpoint again")
    raise CheckpointError(
        f"{folder} has only {pickles[0]}, a pickle, which can run code on loading: expected {stem}.safetensors. If you "
        "trust its origin, convert the folder first:\n"
        "  from diffusers import DiffusionPipeline\n"
        f"  DiffusionPipeline.from_pretrained({str(folder.parent)!r}).save_pretrained({str(folder.parent) + '-safe'!r})"
    )


def _shards(index: Path) -> list[Path]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has weight_map {weight_map!r}: expected an object, fetch the checkpoint again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name!r}: expected a file beside it, fetch the checkpoint again")
    return [index.parent / name for name in names]


def header(file: Path) -> dict[str, Stored]:
    """Returns what a .safetensors file holds, without reading a tensor."""
    if file.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{file} is a pickle, which can run code on loading: expected .safetensors. Convert it first:\n"
            "  import safetensors.torch, torch\n"
            f'  w = torch.load({str(file)!r}, map_location="cpu", weights_only=True); w = w.get("state_dict", w)\n'
            "  w = {key: t.clone().contiguous() for key, t in w.items() if isinstance(t, torch.Tensor)}\n"
            f"  safetensors.torch.save_file(w, {str(file.with_suffix('.safetensors'))!r})"
        )
    if file.suffix != ".safetensors":
        raise CheckpointError(f"{file} is of type {file.suffix!r}: expected a .safetensors file or a diffusers folder")
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}
            return {key: Stored(file, key, s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete ({error}): expected .safetensors, fetch it again"
        ) from error


def read(weights: Mapping[str, Stored]) -> Tensors:
    """Returns copies of the tensors in float32. Raises CheckpointError for a file that has changed."""
    by_file = sorted(weights.items(), key=lambda item: item[1].file)
    ends = itertools.accumulate(4 * math.prod(stored.shape) for _, stored in by_file)
    # A file is closed and opened again every so often: all that was read of it counts as our memory until then.
    batches = itertools.groupby(zip(by_file, ends, strict=True), lambda item: (item[0][1].file, item[1] // BATCH_BYTES))
    tensors = {}
    for (file, _), batch in batches:
        try:
            with safe_open(file, framework="pt") as held:
                for (name, stored), _ in batch:
                    whole = held.get_tensor(stored.key)
                    turned = whole.T if stored.turned else whole
                    rows = turned.reshape(turned.shape or (1,))[stored.row : stored.row + _rows(stored.shape)]
                    tensors[name] = rows.to(torch.float32, copy=True).reshape(stored.shape).contiguous()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{file} changed since it was opened ({error}): open it again") from error
    return tensors


def matched(name: str, source: Source) -> Component:
    """Returns the component with every tensor of its module found in the source; raises with all that does not fit."""
    wanted, stored = _wanted(name, source), list(source.tensors.values())
    # The conversions are given stand-ins without memory: each row is one number repeated, which no other row has.
    firsts = list(itertools.accumulate((_rows(tensor.shape) + 1 for tensor in stored), initial=0))
    numbers = {tensor.key: _stand_in(first, tensor.shape) for first, tensor in zip(firsts, stored, strict=False)}
    try:
        converted = {key: t for key, t in source.convert(numbers, source.config).items() if t is not None}
    except KeyError as error:
        raise CheckpointError(f"{source.place} lacks {error} of its {name}: fetch the checkpoint again") from error
    # `text_model.` stands before a text encoder's keys in old files, and in modules that have a projection besides.
    bare = {key.removeprefix("text_model."): t for key, t in converted.items()}
    known = {key: bare.get(key.removeprefix("text_model.")) for key in wanted}
    found = {key: _located(t, stored, firsts) for key, t in known.items() if t is not None}
    problems = _problems(source, wanted, found)
    if problems:
        raise CheckpointError(
            f"the {name} in {source.place} does not fit its config: {'; '.join(problems)}. Fetch the checkpoint again; "
            "for a single file, give other widths by configs=, and a VAE that it does not have by vae="
        )
    return Component(name, source.config, {key: replace(found[key], shape=shape) for key, shape in wanted.items()})


def _rows(shape: Shape) -> int:
    return shape[0] if shape else 1


def _stand_in(first: int, shape: Shape) -> torch.Tensor:
    """Returns a tensor of that shape without memory but for a number a row: `first`, and what follows it.

    There is a number past the last row, where rows are that a conversion expects and the tensor does not have.
    """
    rows = torch.arange(first, first + _rows(shape) + 1)[: _rows(shape)]
    return rows.reshape(len(rows), *[1] * (len(shape) - 1)).expand(shape) if shape else rows[0]


def _located(stand_in: torch.Tensor, stored: Sequence[Stored], firsts: Sequence[int]) -> Stored:
    """Returns the tensor, or the rows of one, that a stand-in has come to stand for, in the shape it has come to."""
    number = int(stand_in.as_strided((), ()))
    place = bisect.bisect_right(firsts, number) - 1
    turned = stand_in.ndim == 2 and stand_in.stride(0) == 0 != stand_in.stride(1)
    return replace(stored[place], row=number - firsts[place], turned=turned, shape=tuple(stand_in.shape))


def _problems(source: Source, wanted: Mapping[str, Shape], found: Mapping[str, Stored]) -> list[str]:
    """Returns one line a kind of problem; `found` has the shapes after conversion, the source those in the file."""
    used = Counter[str]()
    for tensor in found.values():
        used[tensor.key] += math.prod(tensor.shape)
    unread = source.unread and source.unread.format(**source.config)
    unused = [
        key
        for key in source.tensors
        if key not in used and not IGNORED.search(key) and not (unread and re.search(unread, key))
    ]
    misfits = [
        f"{tensor.key} (got {source.tensors[tensor.key].shape}, expected {wanted[key]})"
        for key, tensor in found.items()
        if tensor.shape != wanted[key] or used[tensor.key] != math.prod(source.tensors[tensor.key].shape)
    ]
    alien = [f"{tensor.key} ({tensor.dtype})" for tensor in found.values() if tensor.dtype not in FLOATS]
    kinds = {
        "missing": [key for key in wanted if key not in found],
        "of another shape": misfits,
        f"of a type other than {', '.join(FLOATS)}": alien,
        "unexpected": unused,
    }
    return [f"{kind}: {first_few(keys)}" for kind, keys in kinds.items() if keys]


def _wanted(name: str, source: Source) -> dict[str, Shape]:
    """Returns the shape of each tensor that the component's module has."""
    try:
        return {key: tuple(tensor.shape) for key, tensor in BUILDERS[name](source.config).state_dict().items()}
    except Exception as error:  # whatever diffusers or transformers raise for a config they cannot build
        raise CheckpointError(f"the {name} of {source.place} cannot be built: {error}. Correct its config") from error


def under(prefix: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Returns the tensors whose keys begin so."""
    return {key: stored for key, stored in tensors.items() if key.startswith(prefix)}


def _channels(shapes: Mapping[str, Shape]) -> int | None:
    """Returns how many channels the UNet of a single file takes, None where that cannot be told."""
    shape = shapes.get(families.FIRST_LAYER, ())
    return shape[1] if len(shape) == 4 else None


def _configs_folder(family: Family, configs: Path | None, shapes: Mapping[str, Shape]) -> Path:
    folder = configs or family.others.get(_channels(shapes) or 0, family.configs)
    return folder if folder.is_dir() else families.CONFIGS / folder


def _local_configs(family: Family, configs: Path | None, shapes: Mapping[str, Shape]) -> Configs:
    folder, channels = _configs_folder(family, configs, shapes), _channels(shapes)
    known = {name: _read_json(folder / f"{name}.json") for name in (*family.slots, "scheduler")}
    if channels is not None:  # the same configs do for models of more channels
        known["unet"]["in_channels"] = channels
    return known


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): expected a json file, fetch it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds {type(value).__name__}: expected a json object, fetch it again")
    return value


def _name(path: Path) -> str:
    # Not resolve(): in a download cache the name is a link to a file that is named by its hash.
    return Path(os.path.abspath(path)).name
