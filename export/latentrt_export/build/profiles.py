"""The shapes that plans are built for, derived from a component's TensorSpecs: fixed wherever a fixed shape is faster.

A component that sees pictures has a profile for each size and batch, with nothing left open. One that runs once a
prompt or once a run may be given any number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from latentrt.bundle.folder import Bundle
from latentrt.engines.nvidia.plans import Shapes
from latentrt.tensors import TensorSpec, shape_of, split_axis

Profile = tuple[Shapes, ...]
Sides = Mapping[str, tuple[int, int, int]]  # the smallest, usual and largest size of each symbol
Wanted = Mapping[str, tuple[int, ...]]



def profiles_of(
    bundle: Bundle, component: str, sizes: Iterable[tuple[int, int]], batches: Iterable[int]
) -> tuple[Profile, ...]:
    """Returns a component's profiles.

    sizes: (width, height) in pixels. batches: the rows of one call of the UNet; a picture with guidance has two. The
    VAE's batch is always 1.
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
    """Returns the profile that takes inputs of the shapes `wanted`: as open as one made by `profiles_of`, or more."""
    specs = bundle.manifest.components[component].inputs
    asked = sizes_of(specs, wanted)
    sides = dict(fixed(asked))
    if not sees_pictures(specs):
        for symbol, (low, usual, high) in open_sides(bundle).items():
            if symbol in asked and low < high:
                sides[symbol] = (low, usual, max(high, asked[symbol]))
    return profile(specs, sides)


def sees_pictures(specs: Iterable[TensorSpec]) -> bool:
    """Whether the component works on latents or pictures."""
    return "height" in symbols_of(specs)


def symbols_of(specs: Iterable[TensorSpec]) -> set[str]:
    """The symbols in the specs' shapes."""
    return {split_axis(axis)[1] for spec in specs for axis in spec.shape if isinstance(axis, str)}


def open_sides(bundle: Bundle) -> dict[str, tuple[int, int, int]]:
    """What a plan takes where the picture does not say it: rows of text, timesteps, a chunk's tokens, one image."""
    return bundle.manifest.size_bounds()


def fixed(sizes: Mapping[str, int]) -> dict[str, tuple[int, int, int]]:
    """The sizes as sides that cannot vary."""
    return {symbol: (size, size, size) for symbol, size in sizes.items()}


def sizes_of(specs: Iterable[TensorSpec], wanted: Wanted) -> dict[str, int]:
    """The size of each symbol when inputs have the shapes `wanted`."""
    sides = ((axis, size) for spec in specs for axis, size in zip(spec.shape, wanted[spec.name], strict=True))
    known = ((*split_axis(axis), size) for axis, size in sides if isinstance(axis, str))
    return {symbol: int(size / factor) for factor, symbol, size in known if factor >= 1}


def profile(specs: Iterable[TensorSpec], sides: Sides) -> Profile:
    """The three shapes of each input."""
    bounds = [{symbol: side[place] for symbol, side in sides.items()} for place in range(3)]
    return tuple(Shapes(spec.name, *(shape_of(spec, sizes) for sizes in bounds)) for spec in specs)
