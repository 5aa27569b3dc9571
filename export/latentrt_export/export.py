"""Export of a checkpoint to a bundle: traces, saves and measures every component, then renames the folder."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from latentrt.bundle.folder import record_files, save_manifest
from latentrt.bundle.manifest import (
    FORMAT,
    Classes,
    Component,
    Fidelity,
    Latents,
    Manifest,
    Text,
    TokenizerSpec,
)
from latentrt.bundle.manifest_json import named_files
from latentrt.bundle.tasks import tasks_of
from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.request.few_step import FEW_STEP, few_step_of
from latentrt.sampling.schedule import NoiseSchedule
from latentrt.storage.atomic import new_folder
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.classes import classes_of, layout_of
from latentrt_export.checkpoint.embeddings import bundled_in, with_embeddings, words_of
from latentrt_export.checkpoint.image_embeddings import embedding_of
from latentrt_export.checkpoint.load import Checkpoint, load_checkpoint
from latentrt_export.checkpoint.lora import loras_provenance
from latentrt_export.checkpoint.markers import declared_by_options
from latentrt_export.checkpoint.named import check_names
from latentrt_export.checkpoint.scheduler import defaults_of, notices_of, schedule_of
from latentrt_export.components.denoiser import last_skips, multiple_of
from latentrt_export.components.parts import parts_of
from latentrt_export.components.tiny_decoder import open_tiny_decoder, tiny_part
from latentrt_export.gate import check_gate
from latentrt_export.graph.activations import with_figure
from latentrt_export.graph.four_bits import eight_bit_bytes
from latentrt_export.graph.precision import FOUR_BIT_ROLES, PRECISIONS, ExportPrecision, row_bytes
from latentrt_export.graph.save import save_graph
from latentrt_export.graph.step_cache import check_boundary
from latentrt_export.graph.trace import trace
from latentrt_export.lora_table.table import with_table
from latentrt_export.networks.autoencoder import latent_channels, scaling_of
from latentrt_export.networks.component import Config, Part, pixels_of
from latentrt_export.options import ExportOptions as ExportOptions
from latentrt_export.options import refuse_for_transformers, refuse_pictures, with_networks, without_pickles
from latentrt_export.preview import fit_to_rgb
from latentrt_export.step_cache import with_step_cache

TOKENIZER_FILE, OTHER_FILE = "tokenizer/tokenizer.json", "tokenizer/{}.json"
# Folder of converted pickles inside the new bundle's temporary folder, with which it is removed if the export fails.
SCRATCH = ".pickles"
# Precisions in which every weight is rounded to fp16 first.
HALVES: tuple[ExportPrecision, ...] = ("w16", "w4")
WEIGHTS_SUFFIX = re.compile(r"\.safetensors$", re.IGNORECASE)

Progress = Callable[[str], None]


def export(source: Path, out: Path, options: ExportOptions, progress: Progress = lambda line: None) -> Manifest:
    """Writes the bundle `out` from the checkpoint `source` and returns its manifest; `out` appears whole or not at all.

    progress: called with a line as each stage begins. Raises CheckpointError for files that cannot be read,
    FidelityError for a component that misses its gate, OutputError if `out` exists, RequestError for a boundary of step
    caching that the UNet does not have.
    """
    check_names(options.steering)
    with new_folder(out) as folder:
        scratch, pickled = folder / SCRATCH, dict[str, str]()
        if options.allow_pickle:
            source, options, pickled = without_pickles(source, options, scratch, progress)
        prepared = prepare_checkpoint(source, options, progress)
        if options.step_cache is not None:
            check_boundary(options.step_cache, last_skips(prepared.checkpoint.denoiser.config))
        tiny = open_tiny_decoder(options.tiny_decoder) if options.tiny_decoder else None
        checkpoint, tokenizer = prepared.checkpoint, prepared.tokenizer
        if options.precision in HALVES:
            checkpoint = checkpoint.in_halves()
        if tokenizer:
            save_tokenizers(folder, tokenizer)
        components = {
            part.name: write_component(part, folder, options.precision, progress) for part in parts_of(checkpoint)
        }
        if checkpoint.left_out:  # after the lines of progress, where it is not missed
            progress(f"left out, as nothing here reads it: {', '.join(checkpoint.left_out)}")
        progress("preview")
        latents, side_px = latents_of(checkpoint)
        if tiny is not None:
            part = tiny_part(tiny, (latents.channels, latents.factor))
            components[part.name] = write_component(part, folder, options.precision, progress)
        manifest = manifest_of(prepared, options, components, (latents, side_px))
        manifest = replace(manifest, provenance={**manifest.provenance, **pickled})
        shutil.rmtree(scratch, ignore_errors=True)
        if options.step_cache is not None:
            manifest = with_step_cache(folder, manifest, options.step_cache, progress)
        manifest = with_table(folder, manifest)
        files = record_files(folder, named_files(manifest))
        manifest = replace(manifest, files=files)
        save_manifest(folder, manifest)
    return manifest


def manifest_of(
    prepared: PreparedCheckpoint,
    options: ExportOptions,
    components: Mapping[str, Component],
    latent_space: tuple[Latents, int],
) -> Manifest:
    """The bundle's manifest without its files. latent_space: the result of `latents_of`."""
    checkpoint, (latents, side_px) = prepared.checkpoint, latent_space
    names = "class_embedding", "segmentation", "layout_encoder"
    table, labels, boxes = map(checkpoint.components.get, names)
    manifest = Manifest(
        format=FORMAT,
        name=options.name or WEIGHTS_SUFFIX.sub("", checkpoint.source),
        family=checkpoint.family.name,
        tasks=tasks_of(components),
        components=components,
        text=text_of(checkpoint, prepared.pads, padded=prepared.tokenizer.padded) if prepared.tokenizer else None,
        latents=latents,
        schedule=prepared.schedule,
        tokenizer=spec_of(prepared.tokenizer) if prepared.tokenizer else None,
        defaults=defaults_of(
            checkpoint.scheduler,
            side_px,
            steps=options.steps or checkpoint.family.steps,
            guidance=checkpoint.family.guidance if options.guidance is None else options.guidance,
            eta=checkpoint.family.eta,
            overlay=checkpoint.family.overlay,
        ),
        provenance=provenance(checkpoint)
        | loras_provenance(options.loras)
        | dict(prepared.words)
        | {f"control {network.name}": network.path.name for network in options.steering},
        files={},
        classes=classes_of(table.config) if table else None,
        layout=layout_of(boxes.config) if boxes else None,
        segmentation=Classes(labels.config["labels"]) if labels else None,
        image_embedding=embedding_of(checkpoint),
    )
    manifest = with_few_step(manifest, options)
    return manifest if options.guidance is not None else with_possible_guidance(manifest)


def with_few_step(manifest: Manifest, options: ExportOptions) -> Manifest:
    """The manifest, with the settings of a fused LoRA for few steps as defaults; those of the options come first."""
    name = few_step_of(str(one.file) for one in options.loras if one.scale)
    if name is None or manifest.schedule is None:
        return manifest
    known = FEW_STEP[name]
    defaults = replace(
        manifest.defaults,
        sampler=known.sampler,
        sigmas="normal",
        steps=options.steps or known.steps,
        guidance=known.guidance if options.guidance is None else options.guidance,
    )
    schedule = replace(manifest.schedule, spacing=known.spacing or manifest.schedule.spacing)
    return replace(manifest, defaults=defaults, schedule=schedule)


def with_possible_guidance(manifest: Manifest) -> Manifest:
    """The manifest, without guidance by default where there is nothing to guide from."""
    if manifest.unconditional:
        return manifest
    return replace(manifest, defaults=replace(manifest.defaults, guidance=1.0))


@dataclass(frozen=True)
class PreparedCheckpoint:
    """A checkpoint with all additions, ready to export.

    pads: padding token per text encoder. schedule: None for an autoencoder alone. words: provenance of textual
    inversions.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    pads: Mapping[str, int]
    schedule: NoiseSchedule | None
    words: Mapping[str, str]


def prepare_checkpoint(source: Path, options: ExportOptions, progress: Progress) -> PreparedCheckpoint:
    """Returns the checkpoint with all additions of the options; no tensor is read yet. Raises CheckpointError."""
    overrides = declared_by_options(options.prediction, options.zero_snr)
    checkpoint = load_checkpoint(
        source, configs=options.configs, vae=options.vae, variant=options.variant, overrides=overrides
    )
    if not checkpoint.draws:
        refuse_pictures(options)
        return PreparedCheckpoint(checkpoint, None, {}, None, {})
    schedule = schedule_of(checkpoint.scheduler, checkpoint.family.size_shift)
    declarations = (f"{subject}: {text}" for subject, text in checkpoint.declarations.items())
    for line in [*declarations, *notices_of(checkpoint.scheduler, checkpoint.family.size_shift)]:
        progress(line)
    if table := checkpoint.components.get("class_embedding"):
        classes_of(table.config)  # raises for names that do not fit, before anything is traced
    refuse_for_transformers(checkpoint, options)
    checkpoint = with_networks(checkpoint, options)
    if not checkpoint.family.encoders:
        refuse_words(checkpoint, options)
        return PreparedCheckpoint(checkpoint, None, {}, schedule, {})
    tokenizer, pads = find_tokenizer(checkpoint, options)
    extended = with_embeddings(checkpoint, tokenizer, (*options.embeddings, *bundled_in(options.loras)), progress)
    return PreparedCheckpoint(extended.checkpoint, extended.tokenizer, pads, schedule, extended.provenance)


def refuse_words(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Raises CheckpointError for words and tokenizers that are added to a model without prompts."""
    if options.embeddings or options.tokenizer:
        name = "--embedding" if options.embeddings else "--tokenizer"
        raise CheckpointError(f"{name}: got one, but {checkpoint.family.name} models take no prompt; leave it out")


def find_tokenizer(checkpoint: Checkpoint, options: ExportOptions) -> tuple[Tokenizer, dict[str, int]]:
    """The tokenizer of prompts, and the padding token of each text encoder with its vocabulary.

    The tokenizer is that of the options, else the checkpoint's, else the stock one of its kind. Raises CheckpointError
    if its sizes do not fit a text encoder, or if a text encoder's own tokenizer has another vocabulary.
    """
    family = checkpoint.family
    named = {family.tokenizer: options.tokenizer} if options.tokenizer else {}
    kinds = {encoder.tokenizer: encoder.vocabulary for encoder in family.readers.values()}
    known = {name: kinds[name].read(folder) for name, folder in {**checkpoint.tokenizers, **named}.items()}
    tokenizer = known.get(family.tokenizer) or family.vocabulary.stock()
    pads, others = dict[str, int](), dict[str, Tokenizer]()
    for name, encoder in family.readers.items():
        own, config = known.get(encoder.tokenizer, tokenizer), checkpoint.components[name].config
        if encoder.vocabulary is not family.vocabulary:
            others[name] = replace(own, length=encoder.length(config))
            check_sizes(others[name], config["vocab_size"], encoder.length(config))
            continue
        if own.backend.get_vocab() != tokenizer.backend.get_vocab():
            raise CheckpointError(
                f"{encoder.tokenizer}: got another vocabulary than that of {family.tokenizer}, expected the same"
            )
        stock = encoder.pad if encoder.tokenizer not in known else None
        pads[name] = own.pad if stock is None else stock
        check_sizes(tokenizer, config["vocab_size"], encoder.length(config))
    first, *_ = pads
    length = family.readers[first].length(checkpoint.components[first].config)
    return replace(tokenizer, length=length, pad=pads[first], others=others), pads


def save_tokenizers(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes the tokenizer and those of other vocabularies into the bundle's folder."""
    (folder / TOKENIZER_FILE).parent.mkdir()
    files = {TOKENIZER_FILE: tokenizer, **{OTHER_FILE.format(name): one for name, one in tokenizer.others.items()}}
    for file, one in files.items():
        one.backend.save(str(folder / file), pretty=False)


def spec_of(tokenizer: Tokenizer, file: str = TOKENIZER_FILE) -> TokenizerSpec:
    """The manifest's entry of the tokenizer. file: its place in the bundle."""
    ids = tokenizer.bos, tokenizer.eos, tokenizer.pad
    template = tokenizer.before, tokenizer.after
    others = {name: spec_of(one, OTHER_FILE.format(name)) for name, one in tokenizer.others.items()}
    return TokenizerSpec(file, tokenizer.length, *ids, words_of(tokenizer), *template, others)


def check_sizes(tokenizer: Tokenizer, words: int, length: int) -> None:
    """Raises CheckpointError if the tokenizer has more words than a text encoder, or longer rows.

    Rows that are not padded have the text encoder's length. length: the most tokens of the text encoder's rows.
    """
    known = tokenizer.backend.get_vocab_size()
    if known > words or (tokenizer.padded and tokenizer.length > length):
        raise CheckpointError(
            f"tokenizer: got {known} words and prompts of {tokenizer.length} tokens, expected at most {words} and "
            f"{length}, the sizes of the text encoder; give another tokenizer with --tokenizer DIR"
        )


def text_of(checkpoint: Checkpoint, pads: Mapping[str, int], *, padded: bool) -> Text:
    """The manifest's entry of the text encoders. `layers` is the number that all of CLIP's have, for clip_skip."""
    encoders = checkpoint.family.encoders
    skipping = {name: encoder for name, encoder in encoders.items() if not encoder.tokens}
    layers = min((one.layers(checkpoint.components[name].config) for name, one in skipping.items()), default=1)
    first, *_ = pads.values()
    others = {name: pad for name, pad in pads.items() if pad != first}
    unread = {name: encoder.skipped for name, encoder in encoders.items() if encoder.skipped and not encoder.pooled}
    family = checkpoint.family
    rows = padded, family.guided, family.missing
    return Text(layers, tuple(encoders), others, checkpoint.zero_negative, unread, *rows)


def write_component(part: Part, folder: Path, precision: ExportPrecision, progress: Progress) -> Component:
    """Traces, saves and measures one component. Raises FidelityError if it misses its gate."""
    precision = precision_of(part, precision)
    recipe = PRECISIONS[precision]
    inputs, outputs = [recipe.spec(spec) for spec in part.inputs], [recipe.spec(spec) for spec in part.outputs]
    progress(f"{part.name}: tracing")
    module = recipe.module(part.build())
    model = recipe.graph(trace(module, inputs, outputs, part.multiple))
    progress(f"{part.name}: writing")
    data = save_graph(model, folder, part.name)
    component = with_figure(component_of(part, data, precision, inputs, outputs), model)
    wide, rows = eight_bit_bytes(model, precision), row_bytes(model) if data else 0
    component = replace(component, eight_bit_bytes=wide, row_bytes=rows)
    # Weights are freed before the engine loads its own, since both would be the peak. No later component uses them.
    del model
    module.to_empty(device="meta")
    if data:  # weights large enough for a file of their own
        gc.collect()
    progress(f"{part.name}: comparing with the original")
    return replace(component, fidelity=check_gate(part, component, folder, recipe))


def precision_of(part: Part, wanted: ExportPrecision) -> ExportPrecision:
    """The precision that a component is exported in where the bundle's is `wanted`."""
    if part.float32:
        return "fp32"
    rest = (wanted == "fp16" and part.wide) or (wanted == "w4" and part.role not in FOUR_BIT_ROLES)
    return "w16" if rest else wanted


def component_of(
    part: Part,
    data: tuple[str, ...],
    precision: ExportPrecision,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Component:
    """The component of a part whose fidelity is not measured yet."""
    return Component(
        role=part.role,
        file=f"{part.name}.onnx",
        data=data,
        precision=precision,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        fidelity=Fidelity(0.0, None, PRECISIONS[precision].gate),
        sources=part.sources,
        controls=part.controls,
        attention_factor=part.attention_factor,
    )


def latents_of(checkpoint: Checkpoint) -> tuple[Latents, int]:
    """The latent space, and the side in pixels of the training pictures, those of the UNet if there is one."""
    vae = checkpoint.load_vae()
    factor = pixels_of(vae.config)
    shift = vae.config.get("shift_factor") or 0.0
    latents = Latents(
        latent_channels(vae),
        factor,
        scaling_of(vae),
        fit_to_rgb(vae),
        shift,
        multiple=multiple_of(checkpoint.denoiser.config) if checkpoint.draws else 1,
    )
    if checkpoint.draws:
        return latents, side_of(checkpoint.denoiser.config) * factor
    return latents, max(side_of(vae.config, "pictures") // factor, 1) * factor


def side_of(config: Config, of: str = "latents") -> int:
    """The longer side that a UNet or an autoencoder was trained at. Raises CheckpointError if the config lacks it.

    of: what a side is of, for the message.
    """
    size = config.get("sample_size")
    sides = size if isinstance(size, (list, tuple)) and size else [size]
    if not all(type(side) is int and side > 0 for side in sides):
        name = "unet" if of == "latents" else "vae"
        raise CheckpointError(
            f"the {name}'s config has sample_size {size!r}: expected the side of its {of}, such as 64; correct it"
        )
    return int(max(sides))


def provenance(checkpoint: Checkpoint) -> dict[str, str]:
    """The bundle's source, declarations, and versions of the packages that made it."""
    packages = ("latentrt", "torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxruntime")
    return {"source": checkpoint.source, **checkpoint.declarations, **{name: version(name) for name in packages}}
