"""What the settings beside an adapter's tensors say: peft's, in its adapter_config.json or in a file's header."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.errors import CheckpointError
from latentrt.lora.adapters import Form, Shape

METADATA = "lora_adapter_metadata"  # where diffusers notes peft's settings in a file's header
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = ("LORA", "LOHA", "LOKR")
# What makes of the same tensors something else, or of the model another one.
REFUSED = (
    *("layer_replication", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("monteclora_config", "velora_config", "target_parameters", "trainable_token_indices", "modules_to_save"),
)
# Ways to begin that take something out of the model's own weights.
BEGINNINGS = ("pissa", "olora", "corda", "loftq", "lora_ga")
LARGEST = float(np.finfo(np.float32).max)
REMEDY = "merge it with peft (`merge_and_unload`), and export that model"


@dataclass(frozen=True)
class Settings:
    """peft's settings of an adapter, by component where there are several: "unet.lora_alpha" and so on.

    place: where they stand, for messages.
    """

    place: str
    values: Mapping[str, Any]

    def of(self, component: str, name: str) -> Any:
        """One of them; None where nothing is said."""
        return self.values.get(f"{component}.{name}", self.values.get(name))

    def factor(self, component: str, key: str, form: Form, shapes: Mapping[str, Shape]) -> float:
        """Returns alpha / rank for the layer of a weight, 1 where nothing is said or nothing has a rank.

        Raises CheckpointError for an alpha that is no number and a pattern that is no regular expression.
        """
        if form.name not in RANKS:
            return 1.0
        alpha = self.number(component, "lora_alpha" if form.name in ("LoRA", "a LoRA's bias") else "alpha", key)
        rank = RANKS[form.name](shapes)
        rank = self.number(component, "r", key) if rank is None else rank
        if alpha is None or not rank:
            return 1.0
        if rank < 0:
            raise CheckpointError(f"{self.place}: r is {rank:g}, expected a rank; save the LoRA again")
        return alpha / (math.sqrt(rank) if self.of(component, "use_rslora") else rank)

    def number(self, component: str, name: str, key: str) -> float | None:
        """What a setting is for a layer: that of the first pattern that fits, else that of all, else None."""
        value = self.of(component, name)
        patterns = self.of(component, {"r": "rank_pattern"}.get(name, "alpha_pattern")) or {}
        if not isinstance(patterns, Mapping):
            raise CheckpointError(f"{self.place}: the patterns of {name} are {patterns!r}, expected an object")
        path = re.sub(r"\.(weight|bias)$", "", key).removeprefix("text_model.")
        for pattern, other in patterns.items():
            if self.fits(pattern, path):
                value = other
                break
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise CheckpointError(f"{self.place}: {name} is {value!r}, expected a number; save the LoRA again")
        return float(value)

    def fits(self, pattern: str, path: str) -> bool:
        """Whether a pattern is of a layer, as peft 0.21 decides it; with and without what old encoders begin with."""
        try:
            return any(re.match(rf"(.*\.)?({pattern})$", name) for name in (path, f"text_model.{path}"))
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"{self.place}: the pattern {pattern!r} is no regular expression ({error}); save the LoRA again"
            ) from error


def rank_of(name: str) -> Any:
    """The first side of the tensor of that name."""
    return lambda shapes: shapes[name][0]


# The ranks by which alphas of settings are divided; LoKr's may be of no tensor.
RANKS = {
    "LoRA": rank_of("down"),
    "a LoRA's bias": rank_of("down"),
    "LoHa": rank_of("hada_w1_b"),
    "LoKr": lambda shapes: None,
}


def settings_of(file: Path, notes: Mapping[str, Any]) -> Settings:
    """Returns the settings of a file: of the folder that peft saved it into, or of its header, or none.

    Raises CheckpointError when they cannot be read, and for an adapter that is more than its tensors say.
    """
    config = file.with_name(CONFIG)
    if file.name.lower() == WEIGHTS and config.is_file():
        settings = Settings(f"{config}", decoded(config.read_bytes, f"{config}"))
    else:
        place = f"{file}: {METADATA} in its header"
        settings = Settings(place, decoded(lambda: notes.get(METADATA, "{}"), place))
    for name, value in settings.values.items():
        check(settings.place, name.rpartition(".")[2], value)
    return settings


def decoded(read: Any, place: str) -> dict[str, Any]:
    """The JSON object that `read` returns the text of."""
    try:
        found = json.loads(read())
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{place} is no json object ({error}); save the LoRA again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{place} is no json object but {type(found).__name__}; save the LoRA again")
    return found


def check(place: str, name: str, value: Any) -> None:
    """Raises CheckpointError for a setting that changes what the tensors mean."""
    kind = name == "peft_type" and value is not None and value not in KINDS
    begun = name == "init_lora_weights" and isinstance(value, str) and value.lower().startswith(BEGINNINGS)
    if kind or begun or (name in REFUSED and value):
        raise CheckpointError(
            f"{place} says {name} = {value!r}, which cannot be applied here; expected {', '.join(KINDS)} and no more; "
            f"{REMEDY}"
        )
