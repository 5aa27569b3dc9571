"""Positions of a checkpoint's weights in the graphs of a model whose denoiser is a transformer.

Each graph names its weights like the traced module (`latentrt_export.networks.flux2`, `sd3`), in which those of the
hoisted graphs are apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from latentrt.bundle.folder import Bundle
from latentrt.lora.places import Place
from latentrt_export.lora_table.places import STACKED, TEXT_PREFIXES, places_in
from latentrt_export.lora_table.siblings import siblings_of

Places = dict[str, dict[str, Place]]
Shape = tuple[int, ...]
DENOISER = "transformer"
TIMES, CONTEXT = "time_bias", "context_rows"
# Where hoisted graphs have the layers that make modulations. In version 0.2, those of FLUX.2 were stacked, in another
# order of rows; the rows of each, in widths.
MODULATION, STACKED_ROWS = "projections.", (6, 6, 3, 2)


@dataclass(frozen=True)
class Layout:
    """One kind of transformer.

    prefixes: those of weights in the transformer's graph, and in the checkpoint. embedding: the checkpoint's prefix of
    the timestep's embedding. blocks, modulations: the checkpoint's prefixes of the layers that make modulations, in
    order, first those that every block has. biased: whether layers have biases. reordered: the prefix in the graph of a
    layer whose rows have another order there, and in the checkpoint. texts: the text encoders that files may name, and
    the prefixes of their weights. clips: those of them that are CLIP's, whose equal norms and biases graphs have once.
    """

    prefixes: Mapping[str, str]
    embedding: str
    blocks: tuple[str, ...]
    modulations: tuple[str, ...]
    texts: Mapping[str, Mapping[str, str]]
    biased: bool = True
    reordered: Mapping[str, str] = field(default_factory=dict)
    clips: tuple[str, ...] = ()


# The first whose prefixes all are in the graph counts.
LAYOUTS = (
    Layout(
        {
            **{"doubles.": "transformer_blocks.", "singles.": "single_transformer_blocks."},
            **{"embed.": "x_embedder.", "project.": "proj_out."},
        },
        "time_guidance_embed.",
        (),
        (
            *("double_stream_modulation_img.linear.", "double_stream_modulation_txt.linear."),
            *("single_stream_modulation.linear.", "norm_out.linear."),
        ),
        {"text_encoder": {"layers.": "layers.", "embed.": "embed_tokens."}},
        biased=False,
    ),
    Layout(
        {"blocks.": "transformer_blocks.", "patches.": "pos_embed.proj."},
        "time_text_embed.",
        ("transformer_blocks.{}.norm1.linear.", "transformer_blocks.{}.norm1_context.linear."),
        ("norm_out.linear.",),
        dict.fromkeys(("text_encoder", "text_encoder_2"), TEXT_PREFIXES),
        reordered={"project.": "proj_out."},
        clips=("text_encoder", "text_encoder_2"),
    ),
)


def layout_of(bundle: Bundle) -> Layout:
    """The layout of a bundle's transformer."""
    return next(one for one in LAYOUTS if fits(one, bundle))


def fits(layout: Layout, bundle: Bundle) -> bool:
    """Whether the transformer's graph has weights under all prefixes."""
    found = places_in(bundle, DENOISER, layout.prefixes)
    return all(any(key.startswith(prefix) for key in found) for prefix in layout.prefixes.values())


def places_of(bundle: Bundle) -> Places:
    """Returns the position of each weight that a LoRA may change, by the checkpoint's component and key."""
    layout = layout_of(bundle)
    count = sum(key.endswith(".weight") for key in places_in(bundle, TIMES, {MODULATION: MODULATION}))
    times = {f"{MODULATION}{place}.": prefix for place, prefix in enumerate(modulations(layout, count))}
    made = places_in(bundle, TIMES, {"embedding.": layout.embedding, **times})
    denoiser = {
        **places_in(bundle, DENOISER, layout.prefixes),
        **places_in(bundle, CONTEXT, {"": "context_embedder."}),
        **{key: place for key, place in made.items() if layout.biased or key.endswith(".weight")},
    }
    texts = {name: places_in(bundle, name, prefixes) for name, prefixes in layout.texts.items()}
    return {DENOISER: {key: place for key, place in denoiser.items() if key not in STACKED}, **texts}


def modulations(layout: Layout, count: int) -> list[str]:
    """The checkpoint's prefixes of `count` layers that make modulations, in order."""
    blocks = (count - len(layout.modulations)) // len(layout.blocks) if layout.blocks else 0
    return [*(name.format(block) for block in range(blocks) for name in layout.blocks), *layout.modulations]


def twins_of(bundle: Bundle, places: Mapping[str, Mapping[str, Place]]) -> dict[str, dict[str, Shape]]:
    """Returns the shapes of weights that the graphs do not have as the checkpoint does, by component and key.

    These are equal norms and biases, and layers whose rows have another order.
    """
    layout = layout_of(bundle)
    found: dict[str, dict[str, Shape]] = {name: {} for name in places}
    for name in layout.clips:
        found[name] = siblings_of({key: place.shape for key, place in places[name].items()})
    reordered = places_in(bundle, DENOISER, layout.reordered)
    found[DENOISER] = {key: one.shape for key, one in reordered.items() if key not in STACKED}
    if (stacked := places_in(bundle, TIMES, {}).get("project.weight")) is not None:
        width = stacked.shape[1]
        rows = zip(layout.modulations, STACKED_ROWS, strict=True)
        found[DENOISER] |= {f"{prefix}weight": (count * width, width) for prefix, count in rows}
    return found
