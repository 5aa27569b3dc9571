"""peft's settings of an adapter, from its adapter_config.json or from a file's header."""

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
from latentrt.lora.adapters import Adapter, Shape

METADATA = "lora_adapter_metadata"  # diffusers' key for peft's settings in a file's header
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = ("LORA", "LOHA", "LOKR")
# PeftSettings that change the meaning of the tensors, or the model.
REFUSED = (
    *("layer_replication", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("monteclora_config", "velora_config", "target_parameters", "trainable_token_indices", "modules_to_save"),
)
# Initialisations that change the model's own weights.
BEGINNINGS = ("pissa", "olora", "corda", "loftq", "lora_ga")
LARGEST = float(np.finfo(np.float32).max)
REMEDY = "merge it with peft (`merge_and_unload`), and export that model"


@dataclass(frozen=True)
class PeftSettings:
    """peft's settings of an adapter; with several components, by component: "unet.lora_alpha" and so on.

    origin: the file or header that they come from, for messages.
    """

    origin: str
    values: Mapping[str, Any]

    def of(self, component: str, name: str) -> Any:
        """One setting; None if it is missing."""
        return self.values.get(f"{component}.{name}", self.values.get(name))

    def factor(self, component: str, key: str, adapter: Adapter, shapes: Mapping[str, Shape]) -> float:
        """Returns alpha / rank for the layer of a weight; 1 without these settings, or for a kind without a rank.

        Raises CheckpointError for an alpha that is not a number, or an invalid regular expression.
        """
        if adapter.name not in RANKS:
            return 1.0
        alpha = self.number(component, "lora_alpha" if adapter.name in ("LoRA", "a LoRA's bias") else "alpha", key)
        rank = RANKS[adapter.name](shapes)
        rank = self.number(component, "r", key) if rank is None else rank
        if alpha is None or not rank:
            return 1.0
        if rank < 0:
            raise CheckpointError(f"{self.origin}: r is {rank:g}, expected a rank; save the LoRA again")
        return alpha / (math.sqrt(rank) if self.of(component, "use_rslora") else rank)

    def number(self, component: str, name: str, key: str) -> float | None:
        """A setting's value for a layer: that of the first pattern that matches, else the general one, else None."""
        value = self.of(component, name)
        patterns = self.of(component, {"r": "rank_pattern"}.get(name, "alpha_pattern")) or {}
        if not isinstance(patterns, Mapping):
            raise CheckpointError(f"{self.origin}: the patterns of {name} are {patterns!r}, expected an object")
        path = re.sub(r"\.(weight|bias)$", "", key).removeprefix("text_model.")
        for pattern, other in patterns.items():
            if self.fits(pattern, path):
                value = other
                break
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise CheckpointError(f"{self.origin}: {name} is {value!r}, expected a number; save the LoRA again")
        return float(value)

    def fits(self, pattern: str, path: str) -> bool:
        """True if a pattern matches a layer, as in peft 0.21; with and without old text encoders' "text_model."."""
        try:
            return any(re.match(rf"(.*\.)?({pattern})$", name) for name in (path, f"text_model.{path}"))
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"{self.origin}: the pattern {pattern!r} is no regular expression ({error}); save the LoRA again"
            ) from error


def rank_of(name: str) -> Any:
    """A function from shapes to the first side of the tensor `name`."""
    return lambda shapes: shapes[name][0]


# The rank that the settings' alpha is divided by, from tensors' shapes; LoKr's may be no tensor's side.
RANKS = {
    "LoRA": rank_of("down"),
    "a LoRA's bias": rank_of("down"),
    "LoHa": rank_of("hada_w1_b"),
    "LoKr": lambda shapes: None,
}


def settings_of(file: Path, notes: Mapping[str, Any]) -> PeftSettings:
    """Returns the settings of a file: from peft's JSON file beside it, or from its header; empty without either.

    Raises CheckpointError if they cannot be read, and for settings that are not supported.
    """
    config = file.with_name(CONFIG)
    if file.name.lower() == WEIGHTS and config.is_file():
        settings = PeftSettings(f"{config}", decoded(config.read_bytes, f"{config}"))
    else:
        origin = f"{file}: {METADATA} in its header"
        settings = PeftSettings(origin, decoded(lambda: notes.get(METADATA, "{}"), origin))
    for name, value in settings.values.items():
        check(settings.origin, name.rpartition(".")[2], value)
    return settings


def decoded(read: Any, origin: str) -> dict[str, Any]:
    """The JSON object in the text that `read` returns. Raises CheckpointError for any other text."""
    try:
        found = json.loads(read())
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{origin} is no json object ({error}); save the LoRA again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{origin} is no json object but {type(found).__name__}; save the LoRA again")
    return found


def check(origin: str, name: str, value: Any) -> None:
    """Raises CheckpointError for a setting that changes the meaning of the tensors."""
    bad_kind = name == "peft_type" and value is not None and value not in KINDS
    bad_start = name == "init_lora_weights" and isinstance(value, str) and value.lower().startswith(BEGINNINGS)
    if bad_kind or bad_start or (name in REFUSED and value):
        raise CheckpointError(
            f"{origin} says {name} = {value!r}, which is not supported; expected plain {', '.join(KINDS)}; {REMEDY}"
        )
