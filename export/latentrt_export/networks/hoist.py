"""The components of a checkpoint as torch modules: what depends on the prompt or the timestep alone leaves the UNet.

Cross-attention's key and value projections become `CrossKV`, the time-embedding branch of every ResNet becomes
`TimeBias`, and `HoistedUNet` reads slices of their packed outputs. The split is exact up to the order of float sums.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt_export.networks.residuals import Layout, unpacked

# What cross-attention attends to: packed keys and values of a text, and of what prompts besides.
Context: TypeAlias = tuple[Tensor, ...]


class ExplicitAttention:
    """Attention spelt out as MatMul, Softmax, MatMul with the scale on the query.

    This is the canonical form: every engine can read it, TensorRT fuses it, and a scaled query keeps fp16 scores small.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        """The attention block's output, the same shape as `hidden_states`: (batch, tokens, width) or (b, c, h, w)."""
        x = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        query, pairs = attn.to_q(x), self.key_values(attn, x, encoder_hidden_states)
        attended = [attend(query, *pair, attn.heads, upcast=attn.upcast_attention) for pair in pairs]
        x = attn.to_out[0](reduce(operator.add, attended))
        if hidden_states.ndim == 4:
            x = x.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            x = x + hidden_states
        return x if attn.rescale_output_factor == 1 else x / attn.rescale_output_factor

    def key_values(self, attn: Attention, x: Tensor, context: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the keys and values of self-attention: projections of the input itself."""
        yield attn.to_k(x), attn.to_v(x)


class HoistedCrossAttention(ExplicitAttention):
    """Cross-attention whose keys and values are slices of packed ones that take the context's place.

    Those of the text, `cross_kv`, come first, then those of what prompts besides, each attended by itself and summed.
    """

    def __init__(self, start: int, width: int) -> None:
        self.start, self.width = start, width

    def key_values(self, attn: Attention, x: Tensor, context: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the keys and values at this layer's place, (batch, tokens, width) each."""
        cross_kv, *images = context
        middle, end = self.start + self.width, self.start + 2 * self.width
        yield cross_kv[:, :, self.start : middle], cross_kv[:, :, middle:end]
        for kv in images:  # whose keys of all layers come before all values: see `ImageKV`
            key, value = self.start // 2, (self.start + int(kv.shape[-1])) // 2
            yield kv[:, :, key : key + self.width], kv[:, :, value : value + self.width]


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None, *, upcast: bool = False
) -> Tensor:
    """Returns softmax(q k^T / sqrt(d) + mask) v for (batch, tokens, heads * d) operands; same shape as `query`.

    upcast: scores and their softmax in float32 whatever the operands are, for models whose scores leave fp16's range.
    """
    batch, width = query.shape[0], int(query.shape[-1])  # the width is the model's, not an input's: a number
    q, k, v = (x.reshape(batch, -1, heads, width // heads).transpose(1, 2) for x in (query, key, value))
    wide = upcast and v.dtype != torch.float32
    q, k = (q.float(), k.float()) if wide else (q, k)
    scores = (q * math.sqrt(heads / width)) @ k.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    weights = weights.to(v.dtype) if wide else weights
    return (weights @ v).transpose(1, 2).reshape(batch, -1, width)


def layer_output(layer: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """What a layer of one of CLIP's transformers makes of its input, the same shape: (batch, tokens, width)."""
    x, attn = layer.layer_norm1(hidden), layer.self_attn
    x = attend(attn.q_proj(x), attn.k_proj(x), attn.v_proj(x), attn.num_heads, mask)
    hidden = hidden + attn.out_proj(x)
    made: Tensor = hidden + layer.mlp(layer.layer_norm2(hidden))
    return made


class TextEncoder(nn.Module):
    """CLIP's text transformer: input_ids int64 (batch, tokens), clip_skip int64 (1) -> context (batch, tokens, width).

    The causal mask is written out, as Radford et al. (2021) describe it, so that no engine has to know about causality.
    skipped: layers at the end that no `clip_skip` reaches. normed: whether the final layer norm follows the others.
    """

    mask: Tensor

    def __init__(self, model: CLIPTextModel, *, skipped: int = 0, normed: bool = True) -> None:
        super().__init__()
        self.skipped, self.normed = skipped, normed
        self.embeddings, self.layers = model.embeddings, model.encoder.layers
        self.final_layer_norm = model.final_layer_norm
        tokens, dtype = model.config.max_position_embeddings, model.dtype
        # Half of fp16's lowest number: scores are added to it, and the sum must not overflow in any precision.
        mask = torch.full((1, 1, tokens, tokens), torch.finfo(torch.float16).min / 2, dtype=dtype).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, input_ids: Tensor, clip_skip: Tensor) -> Tensor:
        """The hidden state after the layer that is `clip_skip` from the end, after the final layer norm.

        clip_skip: 1, the last layer that is not skipped, to the number of these. It counts as AUTOMATIC1111's web UI
        and stable-diffusion.cpp do, one more than diffusers; the final layer norm, if any, follows whichever it is.
        """
        return self.chosen(self.states(input_ids), clip_skip)

    def chosen(self, states: list[Tensor], clip_skip: Tensor) -> Tensor:
        """The state that is `clip_skip` from the end."""
        used = len(states) - self.skipped
        return torch.stack(states[:used], 1).index_select(1, used - clip_skip).squeeze(1)

    def states(self, input_ids: Tensor) -> list[Tensor]:
        """The hidden state after every layer; that of the last is normed in any case."""
        hidden, states = self.embeddings(input_ids), list[Tensor]()
        for layer in self.layers:
            hidden = layer_output(layer, hidden, self.mask)
            # Normed before one is picked, not after: engines fuse a sum with the norm that follows it, the last one's
            # too, so a clip_skip of 1 is to the bit what a graph without the choice computes.
            last = len(states) == len(self.layers) - 1
            states.append(self.final_layer_norm(hidden) if self.normed or last else hidden)
        return states


class PooledTextEncoder(TextEncoder):
    """A text encoder that also says what the whole prompt is: pooled (batch, pooled), its projected end of text.

    end: the token at whose first place a prompt ends; None for the highest one of the vocabulary.
    """

    before: Tensor

    def __init__(self, model: CLIPTextModelWithProjection, *, skipped: int, normed: bool) -> None:
        super().__init__(model.text_model, skipped=skipped, normed=normed)
        self.projection = model.text_projection
        tokens = model.config.max_position_embeddings
        # Products with this count the ends before each place: a form of "the first" that every engine reads.
        self.register_buffer("before", torch.ones(tokens, tokens, dtype=model.dtype).triu(1))
        # 2 stands in configs of before the token was looked up, for whichever has the highest id.
        self.end = None if model.config.eos_token_id == 2 else model.config.eos_token_id

    def forward(self, input_ids: Tensor, clip_skip: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The context, and the last layer's state at the first end of text, projected."""
        states = self.states(input_ids)
        last = states[-1]
        # By argmax: ONNX Runtime's symbolic shape inference knows no ReduceMax whose axes are an input.
        end = input_ids.gather(-1, input_ids.argmax(-1, keepdim=True)) if self.end is None else self.end
        ends = (input_ids == end).to(last.dtype)
        first = ends * (ends @ self.before == 0).to(last.dtype)
        return self.chosen(states, clip_skip), self.projection((first[:, None] @ last)[:, 0])


class CrossKV(nn.Module):
    """All cross-attention keys and values of a UNet, and of the control networks beside it.

    context -> (batch, tokens, sum of 2 * width), k then v a layer.
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        attentions = (attn for network in networks for attn in cross_attentions(network))
        self.project = stacked([p for attn in attentions for p in (attn.to_k, attn.to_v)])

    def forward(self, context: Tensor) -> Tensor:
        """The packed projections of `context` (batch, tokens, width)."""
        return self.project(context)


class HoistedUNet(nn.Module):
    """The denoising UNet without the parts that `CrossKV` and `TimeBias` computed beforehand.

    Takes over the modules of `unet`, which cannot be called by itself any more. layout: of the residuals that it takes
    of control networks, packed. features: how many it takes of T2I-Adapters. The keys and values of images follow.
    """

    def __init__(self, unet: UNet2DConditionModel, layout: Layout = (), features: int = 0) -> None:
        super().__init__()
        unet.encoder_hid_proj = None  # of image prompts, which `ImageKV` has taken over
        hoist(unet)
        unet.time_embedding = unet.add_embedding = None
        self.unet, self.layout, self.features = unet, layout, features

    def forward(self, sample: Tensor, time_bias: Tensor, cross_kv: Tensor, *steering: Tensor) -> Tensor:
        """The prediction, (batch, channels, height, width), at any height and width the latents may have.

        steering: the residuals of each level, then the features, then the keys and values of image prompts.
        """
        levels = len({level for level, _ in self.layout})
        images = levels + self.features
        residuals, features = tuple(unpacked(steering[:levels], self.layout)), steering[levels:images]
        context = cross_kv, *steering[images:]
        hidden, skips = way_down(self.unet, self.unet.conv_in(sample), time_bias, context, features)
        if residuals:
            hidden = hidden + residuals[-1]
            skips = tuple(skip + residual for skip, residual in zip(skips, residuals[:-1], strict=True))
        for block in self.unet.up_blocks:
            taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            # diffusers upsamples to the next skip's size when the size is odd; elsewhere the two are the same.
            size = skips[-1].shape[2:] if skips else None
            hidden = block(hidden, taken, time_bias, upsample_size=size, **context_of(block, context))
        return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(hidden)))


def way_down(
    network: UNet2DConditionModel | ControlNetModel,
    hidden: Tensor,
    time_bias: Tensor,
    context: Context,
    features: Sequence[Tensor] = (),
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a network makes of its first features in the middle, and all skips on the way there.

    features: what is added at the end of each block, and in the middle where there is one more; nothing if there are
    none.
    """
    skips: tuple[Tensor, ...] = (hidden,)
    for block, added in zip_longest(network.down_blocks, features[: len(network.down_blocks)]):
        hidden, outputs = block_down(block, hidden, time_bias, context, added)
        skips += outputs
    for block in filter(None, [network.mid_block]):  # pruned UNets have none
        hidden = block(hidden, time_bias, **context_of(block, context))
    for added in features[len(network.down_blocks) :]:
        hidden = hidden + added
    return hidden, skips


def block_down(
    block: nn.Module, hidden: Tensor, time_bias: Tensor, context: Context, added: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a block on the way down makes, and its skips; as diffusers adds to them, see `places_of`."""
    attended = context_of(block, context)
    if added is None or attended:
        inside = {} if added is None else {"additional_residuals": added}
        return block(hidden, time_bias, **attended, **inside)
    hidden, outputs = block(hidden, time_bias)
    hidden = hidden + added
    return hidden, (*outputs[:-1], hidden)


class VaeDecoder(nn.Module):
    """latents (batch, channels, h, w), already divided by the scaling factor -> image (batch, 3, 8h, 8w) in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant, self.decoder = vae.post_quant_conv or nn.Identity(), plain(vae.decoder)

    def forward(self, latents: Tensor) -> Tensor:
        """The decoded image; values may leave [-1, 1] a little."""
        return self.decoder(self.post_quant(latents))


class VaeEncoder(nn.Module):
    """image (batch, 3, 8h, 8w) in [-1, 1] -> mean and log-variance of the latents, (batch, channels, h, w) each."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant = plain(vae.encoder), vae.quant_conv or nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's parameters, log-variance clamped as diffusers' DiagonalGaussianDistribution does."""
        mean, log_variance = self.quant(self.encoder(image)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)


class TimeSlice(nn.Module):
    """Stands where a ResNet had its `time_emb_proj`: this layer's part of the packed time bias."""

    def __init__(self, start: int, width: int) -> None:
        super().__init__()
        self.start, self.end = start, start + width

    def forward(self, time_bias: Tensor) -> Tensor:
        """(batch, width) of the packed (batch, T)."""
        return time_bias[:, self.start : self.end]


class SizedUpsample(nn.Module):
    """Nearest-neighbour upsampling to a given size, twice the input's when none is given, and its convolution."""

    def __init__(self, upsample: Upsample2D) -> None:
        super().__init__()
        self.conv = upsample.conv

    def forward(self, hidden: Tensor, output_size: torch.Size | None = None) -> Tensor:
        """The upsampled and convolved features."""
        size = output_size or [2 * side for side in hidden.shape[2:]]
        return self.conv(F.interpolate(hidden, size=size, mode="nearest"))


def stacked(layers: list[nn.Linear]) -> nn.Linear:
    """One linear layer that computes all of `layers` side by side."""
    weight = torch.cat([layer.weight for layer in layers])
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=layers[0].bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return linear


def cross_attentions(unet: nn.Module) -> Iterator[Attention]:
    """The cross-attention layers in the order in which `cross_kv` packs them."""
    return (m for name, m in unet.named_modules() if isinstance(m, Attention) and name.endswith(".attn2"))


def resnets(unet: nn.Module) -> Iterator[ResnetBlock2D]:
    """The ResNets in the order in which `time_bias` packs them."""
    return (m for m in unet.modules() if isinstance(m, ResnetBlock2D))


def hoist(network: nn.Module, kv_start: int = 0, bias_start: int = 0) -> None:
    """Replaces in place what `CrossKV` and `TimeBias` compute by slices of their outputs, from these places on."""
    plain(network)
    for attn in cross_attentions(network):
        width = attn.to_k.out_features
        attn.set_processor(HoistedCrossAttention(kv_start, width))
        attn.to_k = attn.to_v = None
        kv_start += 2 * width
    for resnet in resnets(network):
        width = resnet.time_emb_proj.out_features
        resnet.time_emb_proj, resnet.skip_time_act = TimeSlice(bias_start, width), True
        bias_start += width


def widths_of(network: nn.Module) -> tuple[int, int]:
    """How wide a network's keys and values are, and its time biases, as `CrossKV` and `TimeBias` pack them."""
    kv = sum(2 * attn.to_k.out_features for attn in cross_attentions(network))
    return kv, sum(resnet.time_emb_proj.out_features for resnet in resnets(network))


def plain(module: nn.Module) -> nn.Module:
    """`module`, in place, with attention spelt out and upsampling free of branches on the size."""
    for parent in list(module.modules()):
        if isinstance(parent, Attention):
            parent.set_processor(ExplicitAttention())
        upsamplers = getattr(parent, "upsamplers", None)
        if upsamplers is not None:
            parent.upsamplers = nn.ModuleList(SizedUpsample(layer) for layer in upsamplers)
    return module


def context_of(block: nn.Module, context: Context) -> dict[str, Context]:
    """The keyword arguments that a UNet block with cross-attention takes and one without does not."""
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
