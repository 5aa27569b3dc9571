"""Roles of components, and sources of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal[
    "text_encoder",
    "hoisted",
    "denoiser",
    "shallow_denoiser",
    "quantizer",
    "vae_decoder",
    "vae_encoder",
    "tiny_decoder",
    "controlnet_hint",
    "controlnet",
    "shallow_controlnet",
    "t2i_adapter",
    "image_encoder",
    "segmentation_encoder",
    "image_embedder",
    "noise_augmentor",
    "prior",
]
# Roles of components that serve control images, and of those that take the image itself.
CONTROL_ROLES: tuple[Role, ...] = (
    "controlnet_hint",
    "controlnet",
    "shallow_controlnet",
    "t2i_adapter",
    "image_encoder",
)
IMAGE_ROLES: tuple[Role, ...] = ("controlnet_hint", "t2i_adapter", "image_encoder")
# Roles of components that only a step cache calls.
SHALLOW_ROLES: tuple[Role, ...] = ("shallow_denoiser", "shallow_controlnet")
# Roles of components that are called between the first step and the last.
LOOP_ROLES: tuple[Role, ...] = ("denoiser", "controlnet", *SHALLOW_ROLES)

# Names of components that are denoisers: a UNet, or a transformer.
DENOISERS = ("unet", "transformer")

SourceKind = Literal["latents", "timestep", "text", "request", "component", "control", "image", "features", "positions"]
Per = Literal["model", "run", "prompt", "step", "row"]
TextOutput = Literal["context", "pooled"]
# Request values of SDXL's size conditioning, in pixels but for the score.
SizeId = Literal[
    "original_height", "original_width", "crop_top", "crop_left", "target_height", "target_width", "aesthetic_score"
]
# The hoisted graph of a text's rows, which stand beside those of the latents in a denoiser's attention.
CONTEXT_ROWS = "context_rows"
# The guidance scale minus one, as diffusers feeds it to models that were distilled with guidance.
GUIDANCE = "guidance_scale_minus_one"
# The class of class-conditional models; the unconditional class in the rows of the negative prompt.
CLASS_LABEL = "class_label"
# The vectors that a model attends to, and the tokens of a layout; both stand for a prompt.
CONTEXT_VECTORS, LAYOUT_TOKENS = "context_vectors", "layout_tokens"
# Values that differ between the prompt and the negative prompt.
PER_PROMPT = ("aesthetic_score", CLASS_LABEL, CONTEXT_VECTORS, LAYOUT_TOKENS)
ExtraChannelsName = Literal["mask", "masked_image", "image", "low_resolution", "segmentation"]
LOW_RESOLUTION: ExtraChannelsName = "low_resolution"
SEGMENTATION: ExtraChannelsName = "segmentation"
# Channels of pixels, one per latent, in place of encoded images.
PIXELS: Mapping[ExtraChannelsName, tuple[int, tuple[float, float] | None]] = {
    "mask": (1, (0.0, 1.0)),
    LOW_RESOLUTION: (3, (-1.0, 1.0)),
    SEGMENTATION: (3, None),
}


def denoiser_in(names: Iterable[str]) -> str:
    """The name of the denoiser among those of components, of which it is one."""
    return next(name for name in names if name in DENOISERS)


@dataclass(frozen=True)
class ExtraChannels:
    """Channels that follow the noisy latents in the denoiser's sample (concat conditioning).

    range: the lowest and the highest value; None for latents, which have no bounds. fill: of a masked image, the value
    of the masked pixels, from -1 to 1.
    """

    name: ExtraChannelsName
    channels: int
    range: tuple[float, float] | None = None
    fill: float = 0.0


@dataclass(frozen=True)
class Positions:
    """The numbering of patches by row and column, for sinusoids of it (`latentrt.conditioning.positions`).

    base: the patches per side that a model counts in, whatever the picture's size. scale: what their numbers are
    divided by. table: the patches per side of a square whose centre a picture is, as in Stable Diffusion 3; 0 for a
    numbering that begins at the picture's own corner, and is as wide for a picture of any size.
    """

    base: int
    scale: float
    table: int = 0


@dataclass(frozen=True)
class Rotary:
    """Rotations of the places of tokens and latents (`latentrt.conditioning.rotary`): Su et al. (2021).

    theta: the base of the frequencies. axes: the channels of a head for time, row, column and token, of which two make
    a pair. references: the distance in time between the pictures of a request; 0 for a model that takes none.
    """

    theta: float
    axes: tuple[int, int, int, int]
    references: int = 0


@dataclass(frozen=True)
class InputSource:
    """The source of one input of the denoiser or of a hoisted graph.

    kind: "latents" (the noisy sample), "timestep", "text" (an output of the text encoders), "request" (values of the
    request), "component" (the output of that name of a hoisted component), "control" (control images; zeros without),
    "image" (the embedding of the image that the request shows; zeros for the negative prompt), "features" (the
    denoiser's own, of an earlier call) or "positions" (a table for the latents' size). per: what the values depend on.
    name: the text encoders' output, the component, or the role of the controls' network. values: the names of the
    request's values, one per column. extra_channels: those after the noisy latents, in order. positions, rotary: one of
    both for a table, the numbers of patches or the rotations in it.
    """

    kind: SourceKind
    per: tuple[Per, ...]
    name: str = ""
    values: tuple[str, ...] = ()
    extra_channels: tuple[ExtraChannels, ...] = ()
    positions: Positions | None = None
    rotary: Rotary | None = None


def per_of(sources: tuple[InputSource, ...]) -> tuple[Per, ...]:
    """The `per` of a graph's outputs, from the sources of its inputs; the run if it is nothing narrower."""
    order: tuple[Per, ...] = ("prompt", "step", "row")
    found = {per for source in sources for per in source.per}
    return tuple(per for per in order if per in found) or ("run",)


def latents_source(*extra_channels: ExtraChannels) -> InputSource:
    """The source of the denoiser's sample."""
    return InputSource("latents", ("step", "row"), extra_channels=extra_channels)


def text_source(output: TextOutput) -> InputSource:
    """The source of an input that takes an output of the text encoders."""
    return InputSource("text", ("prompt",), output)


TIMESTEP = InputSource("timestep", ("step",))


# The features that the denoiser leaves for the shallow one: an output there, an input here.
DEEP_FEATURES = "deep_features"
FEATURES = InputSource("features", ("step", "row"))

# The noised embedding of an image, whose noise differs from picture to picture.
IMAGE_EMBEDDING = InputSource("image", ("prompt", "row"))


def positions_source(positions: Positions) -> InputSource:
    """The source of an input that takes the positions of patches."""
    return InputSource("positions", ("run",), positions=positions)


def rotary_source(rotary: Rotary) -> InputSource:
    """The source of an input that takes the rotations of tokens or latents."""
    return InputSource("positions", ("run",), rotary=rotary)


def request_source(*values: str) -> InputSource:
    """The source of an input that takes values of the request."""
    differs = any(value in PER_PROMPT for value in values)
    return InputSource("request", ("prompt",) if differs else ("run",), values=values)


def component_source(name: str, *inputs: InputSource) -> InputSource:
    """The source of an input that takes the output of a hoisted component. inputs: the sources of its own inputs."""
    return InputSource("component", per_of(inputs), name)


def control_source(role: Role) -> InputSource:
    """The source of an input that takes the outputs of a role's controls: per step for ControlNets, else per run."""
    return InputSource("control", ("step", "row") if role == "controlnet" else ("run", "row"), role)


def extra_channels_of(
    extra: tuple[ExtraChannelsName | ExtraChannels, ...], latent_channels: int
) -> tuple[ExtraChannels, ...]:
    """The extra channels of these names: those of PIXELS, or of encoded images, which have those of the latents.

    Where a number of channels is 0, it is that of the latents.
    """
    found = (
        one if isinstance(one, ExtraChannels) else ExtraChannels(one, *PIXELS.get(one, (latent_channels, None)))
        for one in extra
    )
    return tuple(one if one.channels else replace(one, channels=latent_channels) for one in found)
