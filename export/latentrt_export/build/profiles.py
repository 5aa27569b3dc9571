"""Optimisation profiles (the input shapes of plans), derived from a component's TensorSpecs.

A component that processes latents or pictures has one profile of fixed shapes per size and batch, which is faster. A
component that runs once per prompt or once per run takes a range of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from latentrt.bundle.folder import Bundle
from latentrt.engines.nvidia.plans import Shapes
from latentrt.tensors import TensorSpec, shape_of, split_axis

Profile = tuple[Shapes, ...]
Sides = Mapping[str, tuple[int, int, int]]  # minimum, optimum and maximum of each symbol
Wanted = Mapping[str, tuple[int, ...]]


def profiles_of(
    bundle: Bundle, component: str, sizes: Iterable[tuple[int, int]], batches: Iterable[int]
) -> tuple[Profile, ...]:
    """Returns a component's profiles.

    sizes: (width, height) in pixels. batches: rows per UNet call; a picture with guidance has two. The VAE's batch is
    always 1.
    """
    specs, pixels = bundle.manifest.components[component].inputs, bundle.manifest.latents.factor
    rows = batches if "sample" in {spec.name for spec in specs} else (1,)
    points = (
        {**open_sides(bundle), **fixed({"batch": batch, "width": width // pixels, "height": height // pixels})}
        if sees_pictures(specs)
        else open_sides(bundle)
        for batch, (width, height) in product(rows, sizes)
    )
    return tuple(dict.fromkeys(profile(specs, sides) for sides in points))


def profile_for(bundle: Bundle, component: str, wanted: Wanted) -> Profile:
    """Returns a profile that takes inputs of the shapes `wanted`, with the ranges of `profiles_of` or wider ones."""
    specs = bundle.manifest.components[component].inputs
    requested = sizes_of(specs, wanted)
    sides = dict(fixed(requested))
    for symbol, (low, usual, high) in open_sides(bundle).items():
        # Each prompt may have another number of tokens, where rows are not padded: no plan for each.
        if symbol in requested and low < high and (symbol == "tokens" or not sees_pictures(specs)):
            sides[symbol] = (low, usual, max(high, requested[symbol]))
    return profile(specs, sides)


def sees_pictures(specs: Iterable[TensorSpec]) -> bool:
    """True if the component processes latents or pictures."""
    return "height" in symbols_of(specs)


def symbols_of(specs: Iterable[TensorSpec]) -> set[str]:
    """The symbols in the specs' shapes."""
    return {split_axis(axis)[1] for spec in specs for axis in spec.shape if isinstance(axis, str)}


def open_sides(bundle: Bundle) -> dict[str, tuple[int, int, int]]:
    """Sizes that do not depend on the picture: rows of text, timesteps, tokens per chunk, one image."""
    return bundle.manifest.size_bounds()


def fixed(sizes: Mapping[str, int]) -> dict[str, tuple[int, int, int]]:
    """The sizes as ranges of one value."""
    return {symbol: (size, size, size) for symbol, size in sizes.items()}


def sizes_of(specs: Iterable[TensorSpec], wanted: Wanted) -> dict[str, int]:
    """The size of each symbol for inputs of the shapes `wanted`."""
    sides = ((axis, size) for spec in specs for axis, size in zip(spec.shape, wanted[spec.name], strict=True))
    known = ((*split_axis(axis), size) for axis, size in sides if isinstance(axis, str))
    return {symbol: int(size / factor) for factor, symbol, size in known if factor >= 1}


def profile(specs: Iterable[TensorSpec], sides: Sides) -> Profile:
    """Minimum, optimum and maximum shape of each input."""
    bounds = [{symbol: side[place] for symbol, side in sides.items()} for place in range(3)]
    return tuple(Shapes(spec.name, *(shape_of(spec, sizes) for sizes in bounds)) for spec in specs)
