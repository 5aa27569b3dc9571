"""What a checkpoint's loader must know of a transformer or a text encoder, beside the module that is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentrt_export.networks.component import Config

Configs = Mapping[str, Config]
Tensors = dict[str, Tensor]
# A size's name, the size, and what it has to be.
Fitting = Iterator[tuple[str, Any, Any]]


@dataclass(frozen=True)
class TransformerKind:
    """A class of diffusers that denoises.

    module: the class. completed: a config with the entries that it leaves out. fitting: its sizes, and those that they
    need of the other components' configs. finished: adds what files do not store to a module. halves: whether its
    linear layers are only called, so that `half_weights` may hold their weights.
    """

    module: Any
    completed: Callable[[Config], dict[str, Any]]
    fitting: Callable[[Configs], Fitting]
    finished: Callable[[Any], Any] = lambda module: module
    halves: bool = False

    def build(self, config: Config) -> Any:
        """The module of a completed config on torch's meta device."""
        known = inspect.signature(self.module.__init__).parameters
        with torch.device("meta"):
            made = self.module.from_config({key: value for key, value in config.items() if key in known})
        return self.finished(made)


@dataclass(frozen=True)
class TextKind:
    """A text encoder of transformers.

    completed: a config with the entries that it leaves out, and its width and depth under CLIP's names. build: the
    module of a completed config on torch's meta device. keys: a folder's tensors under the module's names. Their linear
    layers are only called, so that `half_weights` may hold their weights.
    """

    completed: Callable[[Config], dict[str, Any]]
    build: Callable[[Config], Any]
    keys: Callable[[Tensors], Tensors]


def in_float32(kind: Any, config: Config) -> Any:
    """The config of a transformers module, in float32. kind: class of the config."""
    known = {key: value for key, value in config.items() if key != "torch_dtype"}
    return kind.from_dict({**known, "dtype": "float32"})
