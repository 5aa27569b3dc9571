"""Text encoders as components: CLIP's, LDM-BERT and T5's, with the outputs that a family takes from each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, Qwen3Model
from transformers.models.t5.modeling_t5 import T5Stack

from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.family import Encoder
from latentrt_export.components.qwen3 import qwen3_part
from latentrt_export.components.t5 import t5_part
from latentrt_export.networks.bert import BertEncoder
from latentrt_export.networks.component import Part, Probe, generator
from latentrt_export.networks.text_encoder import PooledTextEncoder, TextEncoder

USUAL = Encoder()
TextModel: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection | LDMBertModel


def text_parts(
    model: TextModel | T5Stack | Qwen3Model, encoder: Encoder = USUAL, name: str = "text_encoder"
) -> Iterator[Part]:
    """A text encoder, probed at its last layer, the one before and its first.

    The probes are random tokens: the mask lets each position see what stands before it. Where a
    prompt's end matters, each has one.
    """
    if isinstance(model, T5Stack):
        yield t5_part(model, encoder, name)
        return
    if isinstance(model, Qwen3Model):
        yield qwen3_part(model, encoder, name)
        return
    config, rows, layers = model.config, 3, model.config.num_hidden_layers - encoder.skipped
    tokens = config.max_position_embeddings
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=generator())
    if encoder.pooled:
        ids[:, tokens // 2] = config.eos_token_id
    skips = sorted({1, min(2, layers), layers})
    outputs = [TensorSpec("context", "float32", ("batch", tokens, config.hidden_size))]
    if encoder.pooled:
        outputs.append(TensorSpec("pooled", "float32", ("batch", config.projection_dim)))
    yield Part(
        name,
        lambda: traced(model, encoder),
        (TensorSpec("input_ids", "int64", ("batch", tokens)), TensorSpec("clip_skip", "int64", (1,))),
        tuple(outputs),
        (text_probe(model, encoder, ids, 1), *(text_probe(model, encoder, ids[:1], skip) for skip in skips)),
        role="text_encoder",
    )


def traced(model: TextModel, encoder: Encoder) -> nn.Module:
    """The module to trace."""
    if isinstance(model, LDMBertModel):
        return BertEncoder(model)
    kind = PooledTextEncoder if encoder.pooled else TextEncoder
    return kind(model, skipped=encoder.skipped, normed=encoder.normed)


def text_probe(model: TextModel, encoder: Encoder, ids: Tensor, clip_skip: int) -> Probe:
    """Token ids and what the original makes of them: its output where a `clip_skip` of 1 is that, else a layer's."""
    place = clip_skip + encoder.skipped
    with torch.no_grad():
        encoded = model(ids, output_hidden_states=True, return_dict=True)
        reference = encoded.hidden_states[-place]
        if encoder.normed:
            reference = encoded.last_hidden_state if place == 1 else final_norm(model)(reference)
    pooled = (encoded.text_embeds,) if encoder.pooled else ()
    return Probe({"input_ids": ids, "clip_skip": torch.tensor([clip_skip])}, (reference, *pooled))


def final_norm(model: TextModel) -> Any:
    """The layer norm that follows a text transformer's last layer."""
    if isinstance(model, LDMBertModel):
        return model.model.layer_norm
    return (model.text_model if isinstance(model, CLIPTextModelWithProjection) else model).final_layer_norm
