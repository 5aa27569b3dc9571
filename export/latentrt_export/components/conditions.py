"""Conditions of cross-attention by kind of model: the graph that is hoisted for each, and its inputs in a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from torch import nn

from latentrt.bundle.sources import (
    CLASS_LABEL,
    CONTEXT_VECTORS,
    LAYOUT_TOKENS,
    InputSource,
    request_source,
    text_source,
)
from latentrt.tensors import TensorSpec
from latentrt_export.components.hoisted import HoistedPart
from latentrt_export.components.steering import Run
from latentrt_export.networks.bert import LayoutKV
from latentrt_export.networks.hoist import CrossKV
from latentrt_export.networks.one_token import ClassBias

PROBE_TOKENS = 77


class Condition(Protocol):
    """One kind of conditioning by cross-attention."""

    @property
    def one_token(self) -> bool:
        """True where the context has one token."""
        ...

    def hoisted(self, unet: UNet2DConditionModel, controls: Sequence[nn.Module]) -> HoistedPart:
        """The graph whose output the UNet takes. controls: the control networks beside it."""
        ...

    def feeds(self, unet: UNet2DConditionModel, batch: int, random: torch.Generator) -> Run:
        """The graph's inputs in a probe, and the undivided UNet's `context`."""
        ...


@dataclass(frozen=True)
class Context:
    """A sequence of vectors: of text encoders, or of the request."""

    source: InputSource
    one_token: bool = False

    def hoisted(self, unet: UNet2DConditionModel, controls: Sequence[nn.Module]) -> HoistedPart:
        """The keys and values of the sequence."""
        spec = TensorSpec("context", "float32", ("batch", "tokens", unet.config.cross_attention_dim))
        return HoistedPart("cross_kv", CrossKV(unet, *controls).eval(), {spec: self.source}, ("batch", "tokens"))

    def feeds(self, unet: UNet2DConditionModel, batch: int, random: torch.Generator) -> Run:
        """A random sequence."""
        return {"context": torch.randn(batch, PROBE_TOKENS, unet.config.cross_attention_dim, generator=random)}


@dataclass(frozen=True)
class ClassLabel:
    """The embedding of a class, one token. table: of all classes."""

    table: nn.Embedding
    one_token: bool = True

    def hoisted(self, unet: UNet2DConditionModel, controls: Sequence[nn.Module]) -> HoistedPart:
        """The output of every cross-attention for a class."""
        spec = TensorSpec(CLASS_LABEL, "int64", ("batch",))
        bias = ClassBias(unet, self.table).eval()
        return HoistedPart("class_bias", bias, {spec: request_source(CLASS_LABEL)}, ("batch",))

    def feeds(self, unet: UNet2DConditionModel, batch: int, random: torch.Generator) -> Run:
        """Random classes."""
        labels = torch.randint(0, self.table.num_embeddings, (batch,), generator=random)
        return {CLASS_LABEL: labels, "context": self.table(labels)[:, None]}


@dataclass(frozen=True)
class LayoutBoxes:
    """The tokens of a layout, encoded by LDM-BERT."""

    encoder: LDMBertModel
    one_token: bool = False

    def hoisted(self, unet: UNet2DConditionModel, controls: Sequence[nn.Module]) -> HoistedPart:
        """The keys and values of the encoded tokens: encoder and projections are one graph."""
        tokens = self.encoder.config.max_position_embeddings
        spec = TensorSpec(LAYOUT_TOKENS, "int64", ("batch", tokens))
        module = LayoutKV(self.encoder, CrossKV(unet, *controls)).eval()
        return HoistedPart("layout_kv", module, {spec: request_source(LAYOUT_TOKENS)}, ("batch", tokens))

    def feeds(self, unet: UNet2DConditionModel, batch: int, random: torch.Generator) -> Run:
        """Random tokens."""
        config = self.encoder.config
        shape = batch, config.max_position_embeddings
        tokens = torch.randint(0, config.vocab_size, shape, generator=random)
        with torch.no_grad():
            return {LAYOUT_TOKENS: tokens, "context": self.encoder(tokens)[0]}


TEXT = Context(text_source("context"))
VECTORS = Context(request_source(CONTEXT_VECTORS))
