"""Sensitivity of pictures to each group of layers, and the fewest groups that must stay float for a budget.

A group's damage is the squared error of the pictures when it alone is quantized; its saving is its multiply-adds,
or its weights.
Groups return to float in the order of damage per saving. The damage of several groups is not the sum of their damages,
so every choice is measured as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from latentrt.errors import FidelityError
from latentrt.storage.atomic import new_file
from latentrt.storage.json_codec import parse
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.recording.record import Progress
from latentrt_export.graph.layers import Layer

MOST_GROUPS = 96  # above, layers are measured together with their neighbours

# The mean PSNR in dB of the pictures with these layers quantized and no others; infinite if none differs.
Measure = Callable[[Sequence[Layer]], float]
# The saving of a quantized layer, in any unit: multiply-adds, or weights.
Saving = Callable[[Layer], int]


def multiply_adds(layer: Layer) -> int:
    """The saving of arithmetic in 8 bits."""
    return layer.macs


def groups_of(layers: Sequence[Layer], most: int = MOST_GROUPS) -> list[tuple[Layer, ...]]:
    """Returns the layers in at most `most` groups: one group per layer, or else per module, as deep as possible."""
    depth = max(layer.name.count(".") for layer in layers) + 1
    for parts in range(depth, 0, -1):
        groups: dict[str, list[Layer]] = {}
        for layer in layers:
            groups.setdefault(".".join(layer.name.split(".")[:parts]), []).append(layer)
        if len(groups) <= most:
            break
    return [tuple(group) for group in groups.values()]


def damage_of(
    groups: Sequence[tuple[Layer, ...]], measure: Measure, path: Path, progress: Progress
) -> tuple[Damage, ...]:
    """Returns the damage of each group quantized alone. Results in the file at `path` are not measured again."""
    known = {one.layers: one.psnr_db for one in load_damage(path)}
    found: list[Damage] = []
    for number, group in enumerate(groups):
        names = tuple(layer.name for layer in group)
        if names not in known:
            progress(f"sensitivity {number + 1} of {len(groups)}: {names[0]}")
            reached = measure(group)
            known[names] = None if math.isinf(reached) else reached
        found.append(Damage(names, known[names]))
        if number % 8 == 7 or number + 1 == len(groups):
            save_damage(path, found)
    return tuple(found)


def in_order(
    groups: Sequence[tuple[Layer, ...]], damage: Sequence[Damage], saving: Saving = multiply_adds
) -> list[tuple[Layer, ...]]:
    """Returns the groups in the order of damage per saving, highest first."""

    def cost(pair: tuple[tuple[Layer, ...], Damage]) -> float:
        group, one = pair
        error = 0.0 if one.psnr_db is None else 10 ** (-one.psnr_db / 10)
        return error / max(1, sum(map(saving, group)))

    return [group for group, _ in sorted(zip(groups, damage, strict=True), key=cost, reverse=True)]


def fewest_float(
    ordered: Sequence[tuple[Layer, ...]], budget_db: float, measure: Measure, progress: Progress, kept: str = "float"
) -> tuple[int, float]:
    """Returns the number of groups from the front that must stay float for the budget, and the PSNR reached.

    The number is doubled until the budget holds, then found by bisection. kept: words for what these groups are in.
    Raises FidelityError if not even one quantized group meets the budget.
    """
    reached: dict[int, float] = {}

    def holds(count: int) -> bool:
        if count not in reached:
            layers = [layer for group in ordered[count:] for layer in group]
            reached[count] = measure(layers)
            progress(
                f"{count} of {len(ordered)} groups in {kept}: {reached[count]:.2f} dB, the budget is {budget_db:g} dB"
            )
        return reached[count] >= budget_db

    low, high = -1, 0
    while not holds(high):
        if high == len(ordered) - 1:
            best = max(reached, key=lambda count: reached[count])
            worst = ", ".join(layer.name for group in ordered[: min(3, len(ordered))] for layer in group)
            raise FidelityError(
                f"the budget of {budget_db:g} dB cannot be met: the best was {reached[best]:.2f} dB with {best} of "
                f"{len(ordered)} groups in {kept}; the worst layers: {worst}; ask for a lower --budget"
            )
        low, high = high, min(max(1, 2 * high), len(ordered) - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, reached[high]


def load_damage(path: Path) -> list[Damage]:
    """The entries of a file, one per line; none if there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [parse(Damage, json.loads(line)) for line in lines]


def save_damage(path: Path, damage: Sequence[Damage]) -> None:
    """Writes the entries, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(one)) + "\n" for one in damage))
