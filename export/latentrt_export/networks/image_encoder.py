"""IP-Adapters as one graph: CLIP's vision transformer, then keys and values of an image for the UNet.

They do not depend on the timestep, so they are hoisted out of the UNet like those of the text. The image's strength is
in no graph, as softmax(q k) (s v) = s softmax(q k) v: the caller of the UNet scales the values, which follow all keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import Part, Probe, generator
from latentrt_export.networks.hoist import ExplicitAttention, cross_attentions, stacked
from latentrt_export.networks.text_encoder import layer_output

# Mean and standard deviation of CLIP's colours.
SPREAD = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
Projection: TypeAlias = ImageProjection | IPAdapterPlusImageProjection
# Prefix of an adapter's name for reference features, which the undivided UNet takes.
# The component, and the prefix of an IP-Adapter's name in its outputs and the UNet's inputs.
IMAGE_ENCODER, IMAGE_KV = "image_encoder", "image_kv_"
SEEN = "seen_"
# Number of patches of reference features; any number will do.
PROBED_PATCHES = 5


class ContextAttention(ExplicitAttention):
    """Attention whose keys and values are projections of its context."""

    def key_values(self, attn: Attention, x: Tensor, context: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the keys and values of the context."""
        yield attn.to_k(context), attn.to_v(context)


class ImageKV(nn.Module):
    """An IP-Adapter: features of an image -> (batch, tokens, K), the keys of every cross-attention, then all values.

    Takes over the modules of `unet`, where it is the adapter at `place`. K and the order of layers are those of
    `cross_kv`, so a layer's keys begin at half of where they do there.
    """

    def __init__(self, unet: UNet2DConditionModel, place: int) -> None:
        super().__init__()
        self.projection = unet.encoder_hid_proj.image_projection_layers[place]
        processors = [attn.processor for attn in cross_attentions(unet)]
        self.project = stacked([one.to_k_ip[place] for one in processors] + [one.to_v_ip[place] for one in processors])

    @property
    def pooled(self) -> bool:
        """True if it takes the encoder's pooled output; otherwise it takes the states of all patches."""
        return isinstance(self.projection, ImageProjection)

    @property
    def tokens(self) -> int:
        """The number of tokens per image."""
        return int(self.projection.num_image_text_embeds if self.pooled else self.projection.latents.shape[1])

    @property
    def width(self) -> int:
        """The width of all keys and values of a token."""
        return int(self.project.out_features)

    def forward(self, features: Tensor) -> Tensor:
        """The packed projections of `features`."""
        return self.project(self.projection(features))


class ImageEncoder(nn.Module):
    """CLIP's vision transformer with IP-Adapters behind it.

    image (batch, 3, side, side) in [0, 1], shown (batch,), 1 for an image and 0 for none -> keys and values of each
    adapter. Takes over the modules of `model` and of `adapters`.
    """

    def __init__(self, model: CLIPVisionModelWithProjection, adapters: Sequence[ImageKV]) -> None:
        super().__init__()
        vision, self.adapters = model.vision_model, nn.ModuleList(adapters)
        for module in self.adapters.modules():
            if isinstance(module, Attention):
                module.set_processor(ContextAttention())
        self.embeddings, self.before, layers = vision.embeddings, vision.pre_layrnorm, vision.encoder.layers
        pooled = any(adapter.pooled for adapter in adapters)
        self.but_one = len(layers) - 1  # patches' states come from the last layer but one
        self.layers = layers if pooled else layers[: self.but_one]
        self.whole = nn.Sequential(vision.post_layernorm, model.visual_projection) if pooled else None

    def forward(self, image: Tensor, shown: Tensor) -> tuple[Tensor, ...]:
        """The packed keys and values, (batch, tokens, K) per adapter.

        Without an image, an adapter of pooled features gets zeros, an adapter of patches the features of a grey image
        of CLIP's mean colour.
        """
        pixels = of_unit_spread(image) * shown[:, None, None, None]
        states = [self.before(patches_of(self.embeddings, pixels))]
        for layer in self.layers:
            states.append(layer_output(layer, states[-1]))
        whole = self.whole(states[-1][:, 0]) * shown[:, None] if self.whole is not None else None
        return tuple(adapter(whole if adapter.pooled else states[self.but_one]) for adapter in self.adapters)


def of_unit_spread(image: Tensor) -> Tensor:
    """Pixels in [0, 1] with CLIP's mean taken away, over its standard deviation."""
    # Constants, not buffers: buffers are weights, and may be stored in fp16.
    mean, deviation = (image.new_tensor(numbers).reshape(3, 1, 1) for numbers in SPREAD)
    return (image - mean) / deviation


def patches_of(embeddings: Any, pixels: Tensor) -> Tensor:
    """The class embedding and the patch embeddings, with positions added."""
    patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    places = embeddings.position_embedding.weight
    first = F.pad(embeddings.class_embedding[None], (0, 0, 0, len(places) - 1))
    return F.pad(patches, (0, 0, 1, 0)) + (places + first)


def widths_of(projection: Projection) -> tuple[str, int, int]:
    """The encoder config's name of a projection's input width, that width, and the width of its tokens."""
    if isinstance(projection, ImageProjection):
        return "projection_dim", projection.image_embeds.in_features, projection.norm.normalized_shape[0]
    return "hidden_size", projection.proj_in.in_features, projection.norm_out.normalized_shape[0]


def prompt_run(name: str, adapter: ImageKV, batch: int, images: int) -> dict[str, Tensor]:
    """Random features of `images` images per row, for the undivided UNet, and their keys and values."""
    _, width, _ = widths_of(adapter.projection)
    patches = () if adapter.pooled else (PROBED_PATCHES,)
    features = torch.randn(batch, images, *patches, width, generator=generator())
    with torch.no_grad():
        kv = adapter(features.flatten(0, 1)).reshape(batch, -1, adapter.width)
    return {SEEN + name: features, IMAGE_KV + name: kv}


def kv_specs(adapters: Mapping[str, ImageKV], images: str = "") -> tuple[TensorSpec, ...]:
    """The specs of the keys and values of one image, or with "*images" of all images that the UNet takes."""
    return tuple(
        TensorSpec(IMAGE_KV + name, "float32", ("batch", f"{one.tokens}{images}" if images else one.tokens, one.width))
        for name, one in adapters.items()
    )


def encoder_part(model: CLIPVisionModelWithProjection, adapters: Mapping[str, ImageKV]) -> Part:
    """The image encoder's component, with reference inputs with and without an image."""
    side = model.config.image_size
    image_spec = TensorSpec("image", "float32", ("batch", 3, side, side))
    probes = tuple(encoder_probe(model, adapters, shown) for shown in ((1.0, 0.0), (1.0,)))
    inputs, outputs = (image_spec, TensorSpec("shown", "float32", ("batch",))), kv_specs(adapters)
    return Part(
        IMAGE_ENCODER,
        lambda: ImageEncoder(model, tuple(adapters.values())),
        inputs,
        outputs,
        probes,
        role="image_encoder",
        controls=tuple(adapters),
    )


def encoder_probe(
    model: CLIPVisionModelWithProjection, adapters: Mapping[str, ImageKV], shown: Sequence[float]
) -> Probe:
    """One image per row, and the original's outputs; without an image as in diffusers' `encode_image`."""
    side = model.config.image_size
    image = torch.rand(len(shown), 3, side, side, generator=generator())
    rows = torch.tensor(shown)
    with torch.no_grad():
        seen = model(of_unit_spread(image) * rows[:, None, None, None], output_hidden_states=True)
        pooled = seen.image_embeds * rows[:, None]
        references = tuple(one(pooled if one.pooled else seen.hidden_states[-2]) for one in adapters.values())
    return Probe({"image": image, "shown": rows}, references)
