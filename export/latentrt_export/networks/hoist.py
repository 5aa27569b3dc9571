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
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

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


class ConstantAttention:
    """Cross-attention to one token: a slice of the outputs that `ClassBias` computed, whatever the query is."""

    def __init__(self, start: int, width: int) -> None:
        self.start, self.width = start, width

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: None = None
    ) -> Tensor:
        """The output at this layer's place, (batch, 1, width)."""
        (bias,) = encoder_hidden_states
        return bias[:, None, self.start : self.start + self.width]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    upcast: bool = False,
) -> Tensor:
    """Returns softmax(scale q k^T + mask) v for (batch, tokens, heads * d) operands; same shape as `query`.

    scale: of the scores; None for 1 / sqrt(d). upcast: scores and their softmax in float32 whatever the operands are,
    for models whose scores leave fp16's range.
    """
    batch, width = query.shape[0], int(query.shape[-1])  # the width is the model's, not an input's: a number
    q, k, v = (x.reshape(batch, -1, heads, width // heads).transpose(1, 2) for x in (query, key, value))
    wide = upcast and v.dtype != torch.float32
    q, k = (q.float(), k.float()) if wide else (q, k)
    scale = math.sqrt(heads / width) if scale is None else scale
    scores = (q if scale == 1 else q * scale) @ k.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    weights = weights.to(v.dtype) if wide else weights
    return (weights @ v).transpose(1, 2).reshape(batch, -1, width)


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
    """The denoising UNet without the parts that hoisted graphs computed beforehand.

    Takes over the modules of `unet`, which cannot be called by itself any more. conditioned: whether it takes the
    conditioning of its cross-attention. one_token: which is to one token, and a constant per layer; see `one_token.py`.
    layout: of the residuals that it takes of control networks, packed. features: the number that it takes of
    T2I-Adapters. The keys and values of images follow.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel | UNet2DModel,
        layout: Layout = (),
        features: int = 0,
        *,
        conditioned: bool = True,
        one_token: bool = False,
    ) -> None:
        super().__init__()
        unet.encoder_hid_proj = None  # of image prompts, which `ImageKV` has taken over
        hoist(unet, one_token=one_token)
        self.conditioned = int(conditioned)
        unet.time_embedding = unet.add_embedding = None
        self.unet, self.layout, self.features = unet, layout, features

    def forward(self, sample: Tensor, time_bias: Tensor, *others: Tensor) -> Tensor:
        """The prediction, (batch, channels, height, width), at any height and width the latents may have.

        others: the conditioning of cross-attention, the residuals of each level, the features, then the keys and values
        of image prompts.
        """
        conditioning, steering = others[: self.conditioned], others[self.conditioned :]
        levels = len({level for level, _ in self.layout})
        images = levels + self.features
        residuals, features = tuple(unpacked(steering[:levels], self.layout)), steering[levels:images]
        context = *conditioning, *steering[images:]
        hidden, skips = way_down(self.unet, self.unet.conv_in(sample), time_bias, context, features)
        if residuals:
            hidden = hidden + residuals[-1]
            skips = tuple(skip + residual for skip, residual in zip(skips, residuals[:-1], strict=True))
        for block in self.unet.up_blocks:
            taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            # diffusers upsamples to the next skip's size when the size is odd; elsewhere the two are the same.
            size = skips[-1].shape[2:] if skips else None
            for upsample in (one for one in block.modules() if isinstance(one, SizedUpsample)):
                upsample.size = size
            hidden = block(hidden, taken, time_bias, **context_of(block, context))
        return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(hidden)))


def way_down(
    network: UNet2DConditionModel | UNet2DModel | ControlNetModel,
    hidden: Tensor,
    time_bias: Tensor,
    context: Context,
    features: Sequence[Tensor] = (),
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Features after the middle block, and the skips of all blocks before it.

    features: added at the end of each block, and one more after the middle block, if there is one.
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
    """Output and skips of a down block, with T2I-Adapter features added where diffusers adds them; see `places_of`."""
    attended = context_of(block, context)
    if added is None or attended:
        inside = {} if added is None else {"additional_residuals": added}
        return block(hidden, time_bias, **attended, **inside)
    hidden, outputs = block(hidden, time_bias)
    hidden = hidden + added
    return hidden, (*outputs[:-1], hidden)


class TimeSlice(nn.Module):
    """Stands where a ResNet had its `time_emb_proj`: this layer's part of the packed time bias."""

    def __init__(self, start: int, width: int) -> None:
        super().__init__()
        self.start, self.end = start, start + width

    def forward(self, time_bias: Tensor) -> Tensor:
        """(batch, width) of the packed (batch, T)."""
        return time_bias[:, self.start : self.end]


class SizedUpsample(nn.Module):
    """Nearest-neighbour upsampling to `size`, twice the input's when that is None, and its convolution, if any."""

    size: torch.Size | None = None

    def __init__(self, upsample: Upsample2D) -> None:
        super().__init__()
        self.conv = upsample.conv if upsample.use_conv else nn.Identity()

    def forward(self, hidden: Tensor, output_size: torch.Size | None = None) -> Tensor:
        """The upsampled and convolved features."""
        size = output_size or self.size or [2 * side for side in hidden.shape[2:]]
        upsampled: Tensor = self.conv(F.interpolate(hidden, size=size, mode="nearest"))
        return upsampled


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


def hoist(network: nn.Module, kv_start: int = 0, bias_start: int = 0, *, one_token: bool = False) -> None:
    """Replaces in place what hoisted graphs compute by slices of their outputs, from these places on.

    one_token: cross-attention is to one token; its outputs are slices, else its keys and values are.
    """
    plain(network)
    for attn in cross_attentions(network):
        width = attn.to_k.out_features
        attn.set_processor((ConstantAttention if one_token else HoistedCrossAttention)(kv_start, width))
        attn.to_k = attn.to_v = None
        kv_start += width if one_token else 2 * width
    for resnet in resnets(network):
        width = resnet.time_emb_proj.out_features
        resnet.time_emb_proj, resnet.skip_time_act = TimeSlice(bias_start, width), True
        bias_start += width


def widths_of(network: nn.Module) -> tuple[int, int]:
    """Widths of a network's packed keys and values and of its packed time biases."""
    kv = sum(2 * attn.to_k.out_features for attn in cross_attentions(network))
    return kv, sum(resnet.time_emb_proj.out_features for resnet in resnets(network))


def plain(module: nn.Module) -> nn.Module:
    """`module`, in place, with attention spelt out and upsampling free of branches on the size."""
    for parent in list(module.modules()):
        if isinstance(parent, Attention):
            parent.set_processor(ExplicitAttention())
        if isinstance(parent, ResnetBlock2D) and isinstance(parent.upsample, Upsample2D):
            parent.upsample = SizedUpsample(parent.upsample)
        upsamplers = getattr(parent, "upsamplers", None)
        if upsamplers is not None:
            parent.upsamplers = nn.ModuleList(
                SizedUpsample(layer) if isinstance(layer, Upsample2D) else layer for layer in upsamplers
            )
    return module


def context_of(block: nn.Module, context: Context) -> dict[str, Context]:
    """The keyword arguments that a UNet block with cross-attention takes and one without does not."""
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
