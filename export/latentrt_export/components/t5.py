"""T5's encoder as a component."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.family import Encoder
from latentrt_export.networks.component import Part, Probe, generator
from latentrt_export.networks.t5 import T5Encoder

# Rows and tokens of the probes: of two prompts, of one that is longer than all distances that count, of an empty one.
PROBES = ((2, 24), (1, 200), (1, 1))


def t5_part(stack: Any, encoder: Encoder, name: str) -> Part:
    """The encoder, probed with random tokens. stack: transformers' module.

    Its values leave fp16's range in the published models, where transformers keeps the widest layer in float32.
    """
    length = encoder.tokens if encoder.filled else None
    shape = ("batch", length or "tokens")
    ids = TensorSpec("input_ids", "int64", shape)
    context = TensorSpec("context", "float32", (*shape, stack.config.d_model))
    probes = tuple(t5_probe(stack, rows, length or tokens) for rows, tokens in PROBES[: 2 if length else None])
    return Part(name, lambda: T5Encoder(stack), (ids,), (context,), probes, role="text_encoder", wide=True)


def t5_probe(stack: Any, rows: int, tokens: int) -> Probe:
    """Random tokens, and what the original makes of them."""
    ids = torch.randint(0, stack.config.vocab_size, (rows, tokens), generator=generator())
    with torch.no_grad():
        context: Tensor = stack(input_ids=ids).last_hidden_state
    return Probe({"input_ids": ids}, (context,))
