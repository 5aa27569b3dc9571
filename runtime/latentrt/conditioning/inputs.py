"""The denoiser's inputs, made from the sources that the manifest declares: as rarely as they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.bundle.manifest import Component, Manifest
from latentrt.bundle.sources import InputSource
from latentrt.conditioning.prompts import Conditioning, Row, TextKey
from latentrt.conditioning.request_values import request_input
from latentrt.conditioning.text import Call, from_text
from latentrt.request.settings import Settings
from latentrt.tensors import Array, TensorSpec, read_only

# The keys of what depends on no text, and the level of what depends on no step.
UNCONDITIONAL: tuple[TextKey, ...] = ((-1, False),)
ANY_LEVEL: Mapping[float, float] = {0.0: 0.0}


@dataclass(frozen=True)
class InputTable:
    """Rows of one input.

    levels: (texts, images, ...) by noise level; one image where all pictures of a batch have the same. places: the row
    of each text.
    """

    levels: Mapping[float, Array]
    places: Mapping[TextKey, int]

    def rows(self, sigma: float, row: Row, images: int) -> Array:
        """The input at a level under a row's text for every picture of a batch, (images, ...)."""
        found = self.levels[sigma][self.places.get(row.key, 0)]
        return found if len(found) == images else np.repeat(found, images, axis=0)


@dataclass(frozen=True)
class DenoiserInputs:
    """All that the denoiser takes but noisy latents and control images.

    stepwise: inputs that change from step to step. fixed: those that do not, nor depend on the text's length. texts:
    the name of the text's array, by input.
    """

    conditioning: Conditioning
    stepwise: Mapping[str, InputTable]
    fixed: Mapping[str, InputTable]
    texts: Mapping[str, str]
    cache: dict[tuple[Row, ...], dict[str, Array]] = field(default_factory=dict)

    def feeds(self, rows: tuple[Row, ...], sigma: float, images: int) -> dict[str, Array]:
        """The inputs of a call: `images` rows under each of the texts, one after another."""
        stepwise = {
            name: np.concatenate([table.rows(sigma, row, images) for row in rows])
            for name, table in self.stepwise.items()
        }
        return stepwise | self.constant(rows, images)

    def constant(self, rows: tuple[Row, ...], images: int) -> dict[str, Array]:
        """The inputs that steps do not change; cached, as most calls ask for the same.

        Read-only and no view, so that an engine which has them on its device knows that they did not change.
        """
        if rows not in self.cache:
            if len(self.cache) > 1:
                self.cache.clear()
            self.cache[rows] = {
                name: read_only(np.concatenate([self.rows_of(name, row, images) for row in rows]))
                for name in (*self.texts, *self.fixed)
            }
        return self.cache[rows]

    def rows_of(self, name: str, row: Row, images: int) -> Array:
        """An input that steps do not change, under a row's text for every picture of a batch, (images, ...)."""
        if name in self.fixed:
            return self.fixed[name].rows(0.0, row, images)
        array, text = self.texts[name], self.conditioning.texts[row.text]
        one = text.vectors[array] if array in text.vectors else self.conditioning.sequence(row, array)
        return np.repeat(one, images, axis=0)


@dataclass(frozen=True)
class InputMaker:
    """Makes the tables of a run.

    times: the timestep of each noise level at which the denoiser is called. image: the embedding of the image that the
    request shows, (images, width), a row per picture of a batch; None for none.
    """

    call: Call
    conditioning: Conditioning
    settings: Settings
    times: Mapping[float, float]
    image: Array | None = None

    def tables(self, name: str, component: Component) -> dict[str, InputTable]:
        """The outputs of a hoisted graph at every level under every text that it depends on.

        All in one call, or in one per picture of a batch where these differ.
        """
        sources = component.sources
        levels, keys = self.span([*sources.values()])
        outputs = []
        for picture in self.pictures([*sources.values()]):
            columns = {
                spec.name: self.column(spec, sources[spec.name], levels, keys, picture) for spec in component.inputs
            }
            outputs.append(self.call(name, **columns))
        return {key: table([one[key] for one in outputs], levels, keys) for key in outputs[0]}

    def direct(self, spec: TensorSpec, source: InputSource) -> InputTable:
        """An input that the denoiser takes of the request, or the timestep."""
        levels, keys = self.span([source])
        columns = [self.column(spec, source, levels, keys, picture) for picture in self.pictures([source])]
        return table(columns, levels, keys)

    def pictures(self, sources: Sequence[InputSource]) -> range:
        """The pictures of a batch for which these differ; the first one where they are the same for all."""
        differ = self.image is not None and any("row" in source.per for source in sources)
        return range(len(self.image) if differ and self.image is not None else 1)

    def span(self, sources: Sequence[InputSource]) -> tuple[Mapping[float, float], Sequence[TextKey]]:
        """The levels and the texts that make a difference."""
        per = {one for source in sources for one in source.per}
        return (
            self.times if "step" in per else ANY_LEVEL,
            self.conditioning.used() if "prompt" in per else UNCONDITIONAL,
        )

    def column(
        self,
        spec: TensorSpec,
        source: InputSource,
        levels: Mapping[float, float],
        keys: Sequence[TextKey],
        picture: int,
    ) -> Array:
        """An input of a picture under every text at every level, (levels * texts, ...)."""
        if source.kind == "timestep":
            return np.repeat(np.array([*levels.values()]), len(keys))
        one = np.concatenate([self.value(spec, source, key, picture) for key in keys])
        return np.concatenate([one] * len(levels))

    def value(self, spec: TensorSpec, source: InputSource, key: TextKey, picture: int) -> Array:
        """An input of a picture under a text, (1, ...)."""
        if source.kind == "text":
            return self.conditioning.vector(key, source.name)
        if source.kind == "image":
            assert self.image is not None  # `resolve_image_embedding` asks for one
            own = self.image[picture : picture + 1]
            return np.zeros_like(own) if key[1] else own  # as the original guides
        return request_input(spec, source.values, self.settings, negative=key[1])


def table(arrays: Sequence[Array], levels: Mapping[float, float], keys: Sequence[TextKey]) -> InputTable:
    """The table of arrays, one per picture, whose rows are every text at every level."""
    array = np.stack(arrays, 1)
    rows = array.reshape(len(levels), len(keys), *array.shape[1:])
    return InputTable(dict(zip(levels, rows, strict=True)), {key: place for place, key in enumerate(keys)})


def denoiser_inputs(manifest: Manifest, maker: InputMaker) -> DenoiserInputs:
    """Returns the denoiser's inputs for one run, by the sources that the manifest declares."""
    denoiser, hoisted = manifest.components[manifest.denoiser], manifest.hoisted
    texts, tables = dict[str, str](), dict[str, InputTable]()
    for spec in denoiser.inputs:
        source = denoiser.sources[spec.name]
        if source.kind == "text":
            texts[spec.name] = source.name
        elif source.kind == "component" and from_text(hoisted[source.name]):
            texts[spec.name] = spec.name
        elif source.kind == "component" and spec.name not in tables:
            tables |= maker.tables(source.name, hoisted[source.name])
        elif source.kind in ("timestep", "request", "image"):
            tables[spec.name] = maker.direct(spec, source)
    wanted = {name: found for name, found in tables.items() if name in denoiser.sources}
    stepwise = {name for name in wanted if "step" in denoiser.sources[name].per}
    return DenoiserInputs(
        maker.conditioning,
        {name: found for name, found in wanted.items() if name in stepwise},
        {name: found for name, found in wanted.items() if name not in stepwise},
        texts,
    )
