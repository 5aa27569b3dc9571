"""bundle.json as frozen dataclasses: everything the runtime needs to know about a model. `manifest_json` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from latentrt.bundle.presets import Preset
from latentrt.bundle.quantization import Quantization
from latentrt.bundle.sources import (
    CONTEXT_VECTORS,
    GUIDANCE,
    IMAGE_ROLES,
    LOW_RESOLUTION,
    PIXELS,
    ExtraChannels,
    ExtraChannelsName,
    InputSource,
    Role,
)
from latentrt.errors import BundleError
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.schedule import NoiseSchedule
from latentrt.tensors import Array, TensorSpec, split_axis

FORMAT = 2
# Prompts in one call of a graph: usually a negative and a positive one. A plan is built for at most this many.
USUAL_PROMPTS, MOST_PROMPTS = 2, 8
# Tokens of a usual prompt, where rows are as long as their texts.
USUAL_TOKENS = 64
# Latents in one call of the quantizer: their distances to all vectors of a codebook of 16384 take 67 MB.
QUANTIZED_AT_ONCE = 1024

Precision = Literal["fp32", "fp16", "w16", "int8", "w8", "w4"]


@dataclass(frozen=True)
class Fidelity:
    """Loss of an exported component against the original on fixed random inputs, and the loss allowed by its gate.

    relative_error: largest difference over the largest reference value. psnr_db: None when nothing differed.
    """

    relative_error: float
    psnr_db: float | None
    gate: str


@dataclass(frozen=True)
class Component:
    """One graph: its role, its file, its external data, its inputs and outputs.

    sources: of the denoiser and the hoisted graphs, the source of each input. controls: the names by which a request
    asks for the controls that this component serves; of an image encoder, one per output. quantization: the loss
    measured for a quantized graph; None for a float one. attention_factor: of a denoiser, the latents per side that
    a place of its finest attention stands for. boundary: of a shallow denoiser, the number of concatenations with
    skips that it keeps. activations: memory of one call with one row in ONNX Runtime on a CPU, as pairs of bytes per
    latent and per pair of latents, of which the largest sum counts; empty if not known. eight_bit_bytes: of weights in
    8 bits in a graph of w4, whose others have 4, because engines unpack these alone. row_bytes: of tables in a second
    file of which a run reads rows alone.
    """

    role: Role
    file: str
    data: tuple[str, ...]
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fidelity: Fidelity
    sources: Mapping[str, InputSource] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    quantization: Quantization | None = None
    attention_factor: int = 1
    boundary: int = 0
    activations: tuple[tuple[float, float], ...] = ()
    eight_bit_bytes: int = 0
    row_bytes: int = 0

    def input(self, name: str) -> TensorSpec:
        """The input of that name."""
        (spec,) = (spec for spec in self.inputs if spec.name == name)
        return spec


@dataclass(frozen=True)
class Text:
    """The encoding of prompts.

    layers: the highest value of the encoders' input `clip_skip`. encoders: the components that take the tokens; their
    contexts are concatenated along the width. pads: the id of the padding token of encoders where it is not the
    tokenizer's. zero_negative: zeros, not an empty text, stand for a missing negative prompt. unread: the number of
    layers at the end of an encoder that nothing reads; its graph is without them. padded: rows have the tokenizer's
    length; False: each is as long as its text. guided: False for a model that was distilled to draw without guidance.
    missing: the tokens of an encoder that the checkpoint lacks, in whose place the context has zeros.
    """

    layers: int
    encoders: tuple[str, ...] = ("text_encoder",)
    pads: Mapping[str, int] = field(default_factory=dict)
    zero_negative: bool = False
    unread: Mapping[str, int] = field(default_factory=dict)
    padded: bool = True
    guided: bool = True
    missing: int = 0


@dataclass(frozen=True)
class Latents:
    """The latent space.

    factor: pixels per latent along each side. scaling, shift: latents of unit variance are (VAE's - shift) * scaling.
    patch_size: latents per side of a patch, where the denoiser takes patches as channels. to_rgb: rows of (red, green,
    blue), one per channel and one constant; a linear preview in [-1, 1]. multiple: sides in latents must be multiples
    of it.
    """

    channels: int
    factor: int
    scaling: float
    to_rgb: tuple[tuple[float, float, float], ...]
    shift: float = 0.0
    patch_size: int = 1
    multiple: int = 1

    @property
    def pixel_multiple(self) -> int:
        """Sides of a picture in pixels must be multiples of it."""
        return self.factor * self.multiple

    def for_vae(self, latents: Array) -> Array:
        """The input of the VAE's decoder, from unit-variance latents."""
        unscaled: Array = latents / self.scaling
        return unscaled + latents.dtype.type(self.shift) if self.shift else unscaled

    def from_vae(self, mean: Array) -> Array:
        """Unit-variance latents, from those of the VAE's encoder."""
        centred = mean - mean.dtype.type(self.shift) if self.shift else mean
        scaled: Array = centred * mean.dtype.type(self.scaling)
        return scaled


@dataclass(frozen=True)
class TokenizerSpec:
    """The tokenizer's file, in the `tokenizers` package's format, and the ids of the tokens around a prompt.

    length: the most tokens of a row. bos: None where no token begins a row. embeddings: the words added by textual
    inversion, and the number of vectors of each. Their ids are consecutive. before, after: the ids of a chat's template
    around a text, in place of BOS and EOS; () for none. others: those of text encoders that have another vocabulary, by
    component; their rows are padded, and their contexts follow along the tokens.
    """

    file: str
    length: int
    bos: int | None
    eos: int
    pad: int
    embeddings: Mapping[str, int] = field(default_factory=dict)
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    others: Mapping[str, TokenizerSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class Classes:
    """The classes of a class-conditional model. unconditional: the label of the class that stands for none, for
    guidance; None where there is none. names: of the classes, in order; synonyms are divided by ", ".
    """

    count: int
    unconditional: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The boxes of a layout-to-image model: the size of its vocabulary, and the number of objects."""

    tokens: int
    objects: int


@dataclass(frozen=True)
class Prior:
    """The diffusion model that makes an image embedding of a prompt.

    schedule: its noise. clip: the largest value of a clean embedding of unit variance; None for no limit.
    """

    schedule: NoiseSchedule
    clip: float | None = None


@dataclass(frozen=True)
class ImageEmbedding:
    """The embedding of an image that an unCLIP model is conditioned on.

    noise_levels: the number of levels at which noise is added to it; 0 is the lowest. prior: of a model that makes the
    embedding of a prompt; None for a model that embeds an image.
    """

    noise_levels: int
    prior: Prior | None = None


@dataclass(frozen=True)
class Defaults:
    """Values of a request that does not state them. Sizes in pixels. eta: None for the sampler's own.

    Of an autoencoder alone, only the sizes count.
    """

    sampler: str
    sigmas: SigmasName
    steps: int
    guidance: float
    width: int
    height: int
    eta: float | None = None
    overlay: bool = False


@dataclass(frozen=True)
class FileRecord:
    """The size and the hash that a file must have."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole of bundle.json. Paths are relative to the bundle, with forward slashes.

    text, tokenizer: None for a model without prompts. classes, segmentation, layout, image_embedding: the class labels,
    the labels of label maps, the boxes and the image of models that take such; None for all others. lora_weights: the
    file with the table of weights that LoRA files may change; "" for none. schedule: None for an autoencoder alone,
    which draws no pictures. presets: by name, the one to recommend first.
    """

    format: int
    name: str
    family: str
    tasks: tuple[str, ...]
    components: Mapping[str, Component]
    text: Text | None
    latents: Latents
    schedule: NoiseSchedule | None
    tokenizer: TokenizerSpec | None
    defaults: Defaults
    provenance: Mapping[str, str]
    files: Mapping[str, FileRecord]
    classes: Classes | None = None
    segmentation: Classes | None = None
    layout: Layout | None = None
    image_embedding: ImageEmbedding | None = None
    lora_weights: str = ""
    presets: Mapping[str, Preset] = field(default_factory=dict)

    def of_role(self, role: Role) -> dict[str, Component]:
        """The components of a role, by name."""
        return {name: component for name, component in self.components.items() if component.role == role}

    @property
    def denoiser(self) -> str:
        """The name of the denoiser. Raises BundleError for an autoencoder alone, which has none."""
        (name,) = self.of_role("denoiser") or self._refuse_pictures()
        return name

    @property
    def shallow(self) -> str | None:
        """The name of the shallow denoiser: the last layers of the denoiser, fed with features of an earlier call.

        None for a bundle without one (Ma et al. 2023, "DeepCache").
        """
        return next(iter(self.of_role("shallow_denoiser")), None)

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The schedule of the denoiser. Raises BundleError for an autoencoder alone, which has none."""
        return self.schedule or self._refuse_pictures()

    def _refuse_pictures(self) -> NoReturn:
        raise BundleError(
            f"{self.name}: got an autoencoder alone, expected a bundle with a denoiser to draw pictures; use `latentrt "
            "encode` and `latentrt decode`, or export the whole model"
        )

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The names of the text encoders; none for a model without prompts."""
        return self.text.encoders if self.text else ()

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """The most tokens of every row of a short text: one per tokenizer, and one of an encoder that is missing."""
        if self.tokenizer is None or self.text is None:
            return (1,)
        others = (one.length for one in self.tokenizer.others.values())
        return tuple(filter(None, (self.tokenizer.length, *others, self.text.missing)))

    @property
    def longest_side(self) -> int | None:
        """The longest side of a picture in pixels, that of the denoiser's table of positions; None for any."""
        denoiser = self.components[self.denoiser]
        for spec in denoiser.inputs:
            positions = denoiser.sources[spec.name].positions
            if positions is not None and positions.table:
                patches, _ = split_axis(str(spec.shape[-1]))
                return int(positions.table / patches * self.latents.factor)
        return None

    @property
    def unconditional(self) -> bool:
        """Whether the denoiser can be called without the condition, as classifier-free guidance does."""
        named = self.classes is not None and self.classes.unconditional is not None
        text = self.text is not None and self.text.guided
        return text or named or self.layout is not None or bool(self.vector_width)

    @property
    def vector_width(self) -> int:
        """The width of the vectors that a retrieval-augmented model attends to; 0 for any other model."""
        fed = [(one, spec) for one in self.components.values() for spec in one.inputs if spec.name in one.sources]
        widths = (spec.shape[-1] for one, spec in fed if CONTEXT_VECTORS in one.sources[spec.name].values)
        return int(next(widths, 0))

    @property
    def hoisted(self) -> dict[str, Component]:
        """The graphs whose outputs the denoiser takes, made less often than once per step."""
        return self.of_role("hoisted")

    @property
    def sample(self) -> str:
        """The name of the denoiser's input that takes the noisy latents."""
        sources = self.components[self.denoiser].sources
        (name,) = (name for name, source in sources.items() if source.kind == "latents")
        return name

    @property
    def extra_channels(self) -> tuple[ExtraChannelsName, ...]:
        """The names of the channels that follow the noisy latents in the denoiser's sample, in order."""
        return tuple(extra.name for extra in self.extra_channel_specs)

    @property
    def extra_channel_specs(self) -> tuple[ExtraChannels, ...]:
        """The channels that follow the noisy latents in the denoiser's sample, in order."""
        return self.components[self.denoiser].sources[self.sample].extra_channels

    @property
    def upscales(self) -> bool:
        """Whether the denoiser is shown a picture of low resolution: super-resolution by the latents' factor."""
        return LOW_RESOLUTION in self.extra_channels

    @property
    def varies_images(self) -> bool:
        """Whether pictures are variations of an image of the request, for which a prompt may be empty."""
        return bool(self.of_role("image_embedder"))

    @property
    def takes_references(self) -> bool:
        """Whether the denoiser is shown reference images beside the picture, as a model that edits is."""
        return any(one.rotary is not None and one.rotary.references for one in self.sources)

    @property
    def sources(self) -> tuple[InputSource, ...]:
        """The sources of the denoiser's inputs, in order; none for an autoencoder alone."""
        return tuple(one for component in self.of_role("denoiser").values() for one in component.sources.values())

    @property
    def encodes_extra_channels(self) -> bool:
        """Whether extra channels are made by the VAE's encoder."""
        return bool(set(self.extra_channels) - {*PIXELS})

    @property
    def request_values(self) -> tuple[str, ...]:
        """The values of a request that the model is conditioned on."""
        sources = (source for component in self.components.values() for source in component.sources.values())
        return tuple(value for source in sources for value in source.values)

    @property
    def embeds_guidance(self) -> bool:
        """True if the guidance scale is an input, as in distilled models, which have no negative prompt."""
        return GUIDANCE in self.request_values

    @property
    def controls(self) -> dict[str, str]:
        """The component that takes a control's image, by the control's name."""
        return {
            control: name
            for role in IMAGE_ROLES
            for name, component in self.of_role(role).items()
            for control in component.controls
        }

    def networks_of(self, control: str) -> frozenset[str]:
        """The components that a control of that name needs."""
        return frozenset(name for name, component in self.components.items() if control in component.controls)

    def sizes(self, width: int = 0, height: int = 0, **others: int) -> dict[str, int]:
        """Returns the size of every symbolic axis for one picture.

        width, height: in pixels; 0 for the defaults. others: sizes that differ, such as batch=2. Without them there is
        one row of a batch (`batch`), one chunk of text for every tokenizer (`tokens`), the default steps (`n`), one
        control image (`images`), and a stripe of latents for the quantizer (`vectors`).
        """
        defaults, factor = self.defaults, self.latents.factor
        return {
            "batch": 1,
            "height": (height or defaults.height) // factor,
            "width": (width or defaults.width) // factor,
            "tokens": sum(self.row_lengths),
            "n": defaults.steps,
            "images": 1,
            "vectors": QUANTIZED_AT_ONCE,
        } | others

    def size_bounds(self) -> dict[str, tuple[int, int, int]]:
        """The least, usual and largest size of every symbolic axis that the picture's size does not determine."""
        usual = self.sizes()
        most = usual["tokens"]
        padded = self.text is None or self.text.padded
        return {
            "batch": (1, USUAL_PROMPTS, MOST_PROMPTS),
            "n": (1, usual["n"], self.schedule.train_steps if self.schedule else usual["n"]),
            "vectors": (1, usual["vectors"], usual["vectors"]),
            "tokens": (min(self.row_lengths), most, most) if padded else (1, min(USUAL_TOKENS, most), most),
            "images": (usual["images"],) * 3,
        }
