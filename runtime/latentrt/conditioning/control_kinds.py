"""Kinds of control images, one row each: how a control starts to work on its image, and how several are joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import Role
from latentrt.conditioning.controlnet import ActiveControlNet
from latentrt.conditioning.ip_adapter import ActiveImagePrompt, concatenated, scaled
from latentrt.conditioning.t2i_adapter import ActiveT2IAdapter, latents_per_feature
from latentrt.conditioning.text import Call
from latentrt.request.controls import ResolvedControl
from latentrt.sampling.guidance import sum_of
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array

Feeds = Mapping[str, Array]


class ActiveControl(Protocol):
    """A control image at work."""

    def feeds(self, denoiser: Feeds, negative: Array, window: Tile | None, *, shallow: bool) -> Feeds:
        """The denoiser's inputs that it makes for a call, by name, with a row for each row of the call.

        denoiser: the noisy latents and the other inputs of the call. negative: (rows,), whether a row is a negative
        prompt's. window: the part of the picture that the latents are; None for all of it. shallow: whether the call is
        the shallow denoiser's, which may read less.
        """


@dataclass(frozen=True)
class Attachment:
    """A control and its image, (1, channels, height, width) in [0, 1], for one run. guess: see `Request`."""

    call: Call
    manifest: Manifest
    control: ResolvedControl
    image: Array
    guess: bool = False


@dataclass(frozen=True)
class ControlKind:
    """A kind of control.

    build: makes the active control, after its component was called with the image. join: the value of an input that
    several controls have; `images` is the number of control images that every such input has room for.
    """

    build: Callable[[Attachment], ActiveControl]
    join: Callable[[Sequence[Array], int], Array]


def controlnet(attachment: Attachment) -> ActiveControl:
    """A ControlNet at work."""
    control, manifest = attachment.control, attachment.manifest
    (network,) = manifest.networks_of(control.name) & manifest.of_role("controlnet").keys()
    hint = attachment.call(control.component, image=attachment.image)["hint"]
    short = (
        (name, one) for name, one in manifest.of_role("shallow_controlnet").items() if control.name in one.controls
    )
    return ActiveControlNet(
        attachment.call,
        network,
        manifest.components[network],
        next(short, None),
        control.scale,
        hint,
        guess=attachment.guess,
    )


def t2i_adapter(attachment: Attachment) -> ActiveControl:
    """A T2I-Adapter at work."""
    control = attachment.control
    features = attachment.call(control.component, image=attachment.image)
    strong = {name: (np.float32(control.scale) * array).astype(array.dtype) for name, array in features.items()}
    outputs = attachment.manifest.components[control.component].outputs
    return ActiveT2IAdapter(strong, {spec.name: latents_per_feature(spec) for spec in outputs})


def ip_adapter(attachment: Attachment) -> ActiveControl:
    """An IP-Adapter's image prompt at work: the encoder is called with the image, and with none."""
    control, image = attachment.control, attachment.image
    encoder = attachment.manifest.components[control.component]
    name = encoder.outputs[encoder.controls.index(control.name)].name
    outputs = attachment.call(
        control.component, image=np.concatenate([image, image]), shown=np.array([1, 0], image.dtype)
    )
    return ActiveImagePrompt(name, scaled(outputs[name], control.scale))


def added(arrays: Sequence[Array], _images: int) -> Array:
    """The sum of what several controls make."""
    return sum_of([(1, array) for array in arrays])


# By the role of the component that makes what the denoiser takes.
CONTROL_KINDS: dict[str, ControlKind] = {
    "controlnet": ControlKind(controlnet, added),
    "t2i_adapter": ControlKind(t2i_adapter, added),
    "image_encoder": ControlKind(ip_adapter, concatenated),
}
# The kind of a control by the role of the component that is given its image, where that is another one.
MADE_BY: dict[Role, Role] = {"controlnet_hint": "controlnet"}
