"""The layers of a LoRA file: its tensors by layer, checked to be those of a supported adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from latentrt.errors import CheckpointError, first_few
from latentrt.lora.names import layer_of, part_of
from latentrt.lora.peft_config import WEIGHTS
from latentrt.lora.refused import file_of, kind_of
from latentrt.storage.safetensors import FLOATS, NUMBERS, StoredTensor

# File names in folders that peft and diffusers save; the first that exists is read.
NAMES = (WEIGHTS, "pytorch_lora_weights.safetensors")
# Keys of textual inversions inside a LoRA file, as AUTOMATIC1111 reads them.
BUNDLED = re.compile(r"bundle_emb\.(?:(.+)\.(?:clip_[lgh]|string_to_param\..+|emb_params)|([^.]+)\..+)")
# Tensors that hold one number, of any type.
SETTINGS = ("alpha", "on_input")
EXPECTED = (
    "expected pairs such as *.lora_down.weight and *.lora_up.weight (kohya) or *.lora_A.weight and *.lora_B.weight "
    "(peft), or LoHa's and LoKr's hada_* and lokr_*, or another kind that docs/lora.md lists"
)


def word_of(key: str) -> str | None:
    """The textual inversion's word in a key; None for keys of layers."""
    match = BUNDLED.fullmatch(key)
    return None if match is None else match[1] or match[2]


def found_file(path: Path) -> Path:
    """Returns the LoRA file at a path: the file itself, or the one in a folder that peft or diffusers saved.

    Raises CheckpointError if there is none.
    """
    if path.is_dir():
        found = [path / name for name in NAMES if (path / name).is_file()]
        if not found:
            others = sorted(f"{one.parent.name}/" for name in NAMES for one in path.glob(f"*/{name}"))
            hint = f"give {first_few([str(path / one) for one in others])}" if others else "give the file itself"
            raise CheckpointError(f"{path} is a folder without {' or '.join(NAMES)}: expected a LoRA, {hint}")
        return found[0]
    if not path.is_file():
        raise CheckpointError(f"no LoRA at {path}: expected a .safetensors file; latentrt downloads nothing")
    return path


def layers_in(file: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """Returns the tensors of each layer by their names there; textual inversions are left out.

    Raises CheckpointError for keys of anything but a LoRA, of an unsupported kind, twice or not float, and for a file
    without keys.
    """
    layers: dict[str, dict[str, StoredTensor]] = {}
    keys: dict[tuple[str, str], str] = {}
    unknown, twice, not_float = [], [], []
    for key, stored in tensors.items():
        if word_of(key) is not None:
            continue
        part = part_of(key) or factors_of(key, tensors)
        if part is None:
            unknown.append(f"{key} ({stored.dtype})")
        elif part in keys:
            twice.append(f"{keys[part]} and {key}")
        elif stored.dtype not in (NUMBERS if part[1] in SETTINGS else FLOATS):
            not_float.append(f"{key} ({stored.dtype})")
        else:
            keys[part] = key
            layers.setdefault(part[0], {})[part[1]] = stored
    check_keys(file, tensors, unknown, found=bool(layers or not_float))
    if twice:
        raise CheckpointError(f"{file} has two tensors for one: {first_few(twice)}; save the adapters in a file each")
    if not_float:
        raise CheckpointError(f"{file} has tensors that are no floats: {first_few(not_float)}; {EXPECTED}, as floats")
    return layers


def check_keys(file: Path, tensors: Mapping[str, StoredTensor], unknown: list[str], *, found: bool) -> None:
    """Raises CheckpointError for keys of anything but a LoRA, and names the kind of file if it is known.

    unknown: the keys of no known layout. found: True if other keys are a LoRA's.
    """
    refused = kind_of(tensors)
    if refused is not None:
        key, kind = refused
        raise CheckpointError(
            f"{file}: {key} is of {kind}, which is not supported; {EXPECTED}. Merge it into the model with the tool "
            "that made it, and export that"
        )
    if not found and tensors and not any(word_of(key) is not None for key in tensors):
        kind, what = file_of([*tensors]) or ("", "")
        looks = f". It looks like {kind}: {what}" if kind else ""
        raise CheckpointError(f"{file} is no LoRA: its keys are {first_few(unknown)}{looks}; {EXPECTED}, as floats")
    if unknown or not tensors:
        what = f"has keys that are not a LoRA's: {first_few(unknown)}" if tensors else "has no keys"
        raise CheckpointError(f"{file} {what}; {EXPECTED}, as floats")


def factors_of(key: str, tensors: Mapping[str, StoredTensor]) -> tuple[str, str] | None:
    """As `part_of`, for IA3's factors: their key ends in ".weight", and `on_input` stands beside it."""
    path, dot, leaf = key.rpartition(".")
    return (layer_of(path), leaf) if dot and leaf == "weight" and f"{path}.on_input" in tensors else None
