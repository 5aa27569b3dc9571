"""Qwen3 as a component, whose inner states are the context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Qwen3Model

from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.family import Encoder
from latentrt_export.networks.component import Part, Probe, generator
from latentrt_export.networks.qwen3 import Qwen3States

# Tokens of each row of the probes, and the length that they are padded to: of prompts, and of one without padding.
PROBES = (((21, 40), 64), ((13,), 13))


def qwen3_part(model: Qwen3Model, encoder: Encoder, name: str) -> Part:
    """The layers up to the last state, probed with random tokens and padding.

    Some values of the published models are far above the others, and leave fp16's range.
    """
    shape, width = ("batch", "tokens"), len(encoder.states) * model.config.hidden_size
    inputs = TensorSpec("input_ids", "int64", shape), TensorSpec("mask", "float32", shape)
    probes = tuple(qwen3_probe(model, encoder.states, *one) for one in PROBES)
    return Part(
        name,
        lambda: Qwen3States(model, encoder.states, encoder.length(model.config.to_dict())),
        inputs,
        (TensorSpec("context", "float32", (*shape, width)),),
        probes,
        role="text_encoder",
        wide=True,
    )


def qwen3_probe(model: Qwen3Model, states: Sequence[int], rows: Sequence[int], length: int) -> Probe:
    """Random tokens, and what the original makes of them."""
    ids = torch.randint(0, model.config.vocab_size, (len(rows), length), generator=generator())
    mask = (torch.arange(length)[None] < torch.tensor(rows)[:, None]).float()
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
    context: Tensor = torch.cat([found.hidden_states[state] for state in states], -1)
    return Probe({"input_ids": ids, "mask": mask}, (context,))
