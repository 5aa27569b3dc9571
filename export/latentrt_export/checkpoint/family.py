"""A model family as data: its components, where each lies in a checkpoint, and what tells it from other families."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from latentrt.bundle.sources import DENOISERS, ExtraChannels, ExtraChannelsName, SizeId
from latentrt.sampling.schedule import SizeShift
from latentrt_export.checkpoint.config_defaults import DEFAULTS
from latentrt_export.checkpoint.layouts import Tensors
from latentrt_export.checkpoint.tokenizer import CLIP
from latentrt_export.checkpoint.vocabulary import Vocabulary
from latentrt_export.networks.component import Config

# The text encoder of a prior.
PRIOR_ENCODER = "prior_text_encoder"
# Extra channels of the UNets that were trained from a text-to-image model: none, inpainting, InstructPix2Pix.
TEXT_TO_IMAGE_EXTRA: tuple[tuple[ExtraChannelsName, ...], ...] = ((), ("mask", "masked_image"), ("image",))


@dataclass(frozen=True)
class Slot:
    """Place of one component in a single file: the prefix of its keys, and their conversion to the module's keys.

    unread: pattern of keys under the prefix that the module does not have, with entries of the config in braces.
    """

    prefix: str
    convert: Callable[[Tensors, Config], Tensors]
    unread: str | None = None


@dataclass(frozen=True)
class Encoder:
    """Outputs that a family takes from a text encoder.

    skipped: layers at the end that are never used. normed: apply the final layer norm to the output. pooled: take the
    projected pooled output as well. tokenizer: folder of the tokenizer. vocabulary: its kind. pad: token that fills
    rows of a single file, which has no tokenizer; None for EOS. tokens: the most of a row, of an encoder that takes
    rows of any length; None for the number of its positions. filled: all of its rows have that many tokens, and none is
    masked. states: of an encoder whose context is the outputs of inner layers side by side, the numbers of these
    layers, rising; () for the last one's.
    """

    skipped: int = 0
    normed: bool = True
    pooled: bool = False
    tokenizer: str = "tokenizer"
    vocabulary: Vocabulary = CLIP
    pad: int | None = None
    tokens: int | None = None
    filled: bool = False
    states: tuple[int, ...] = ()

    @property
    def unread(self) -> str | None:
        """A pattern of keys that nothing reads, with an entry of the config in braces; None for none."""
        return r"(^|\.)layers\.({unread_layers})\." if self.states else None

    def read_of(self, config: Config) -> Config:
        """The config of what is read: the projection, and the layers up to the last state where there are more."""
        config = {**config, "projected": True} if self.pooled else config
        if not self.states or config.get("num_hidden_layers", 0) <= self.states[-1]:
            return config
        last = self.states[-1]
        return {
            **config,
            "num_hidden_layers": last,
            "unread_layers": "|".join(map(str, range(last, config["num_hidden_layers"]))),
            "states_width": len(self.states) * config["hidden_size"],
            **({"layer_types": config["layer_types"][:last]} if config.get("layer_types") else {}),
        }

    def length(self, config: Config) -> int:
        """The most tokens of a row, for the encoder of that config."""
        return int(self.tokens or config["max_position_embeddings"])

    def layers(self, config: Config) -> int:
        """The layers that a `clip_skip` reaches, for the encoder of that config."""
        return int(config["num_hidden_layers"]) - self.skipped


@dataclass(frozen=True)
class Family:
    """One model family.

    configs: configs of its single files. pipelines: its names in model_index.json. slots: its components and their
    places in a single file. mark: a key that every single file of the family has; "" for a family whose
    single files are not read. mark_width: entry of the UNet's
    config that the last axis of the mark must equal. encoders: its text encoders; their contexts are concatenated in
    this order. values: entries of configs that set the family apart, by component; entries that are not named must be
    those of DEFAULTS; a tuple lists the values that are allowed. size_ids: numbers that the time embedding takes
    besides the timestep. missing: the tokens of a text encoder that the family's checkpoints lack, in whose place its
    denoiser is shown zeros. float32_vae: the VAE leaves fp16's range, unless its config says `force_upcast` false.
    zero_negative: zeros stand for a negative prompt that is not given, unless model_index.json says otherwise.
    folders: names of components' folders, where they differ from the components'. index: entries of model_index.json
    that set the family apart. schedules: the folder of the
    scheduler_config.json that is the entry "noise" of a component's config. prior: the text encoder of its prior.
    extra: names of the extra channels that its UNets may take, in order. absent: prefixes of keys that no single file
    of the family has. averaged: the UNet's weights are the moving averages of a single file, if it has them.
    context_vectors: its UNet attends to vectors of the request. guided: False for models that were distilled to draw
    without guidance. loras: whether LoRA files are known for it. size_shift: the rule by which a flow model's shift
    follows from a picture's size. steps, guidance, eta, overlay: defaults. configs_by_channels, configs_by_prediction,
    configs_by_width: configs of single files whose UNet has that many input channels, that declare that prediction
    type, or whose UNet has that width at its first level.
    """

    name: str
    configs: Path
    pipelines: tuple[str, ...]
    slots: Mapping[str, Slot]
    mark: str
    encoders: Mapping[str, Encoder]
    values: Mapping[str, Config] = field(default_factory=dict)
    mark_width: str = "cross_attention_dim"
    size_ids: tuple[SizeId, ...] = ()
    missing: int = 0
    float32_vae: bool = False
    zero_negative: bool = False
    folders: Mapping[str, str] = field(default_factory=dict)
    index: Config = field(default_factory=dict)
    schedules: Mapping[str, str] = field(default_factory=dict)
    prior: Encoder | None = None
    extra: tuple[tuple[ExtraChannelsName | ExtraChannels, ...], ...] = TEXT_TO_IMAGE_EXTRA
    absent: tuple[str, ...] = ()
    averaged: bool = False
    steps: int = 20
    guidance: float = 7.5
    eta: float | None = None
    context_vectors: bool = False
    guided: bool = True
    loras: bool = True
    size_shift: SizeShift = "none"
    overlay: bool = False
    configs_by_channels: Mapping[int, Path] = field(default_factory=dict)
    configs_by_prediction: Mapping[str, Path] = field(default_factory=dict)
    configs_by_width: Mapping[int, Path] = field(default_factory=dict)

    @property
    def denoiser(self) -> str | None:
        """The component that denoises; None for an autoencoder alone."""
        return next((name for name in DENOISERS if name in self.slots), None)

    @property
    def readers(self) -> Mapping[str, Encoder]:
        """Its text encoders, with that of its prior."""
        return {**self.encoders, **({PRIOR_ENCODER: self.prior} if self.prior else {})}

    @property
    def tokenizer(self) -> str:
        """The folder of the first text encoder's tokenizer, which all with its vocabulary share."""
        return next(iter(self.encoders.values())).tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """The kind of that tokenizer."""
        return next(iter(self.encoders.values())).vocabulary

    def folder(self, component: str) -> str:
        """The name of a component's folder."""
        return self.folders.get(component, component)

    def expected(self, component: str) -> Config:
        """The entries that a component's config must have."""
        return {**DEFAULTS[component], **self.values.get(component, {})}
