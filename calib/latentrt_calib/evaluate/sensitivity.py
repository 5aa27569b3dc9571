"""Which layers cost most: groups of them quantized one at a time, and the costliest left in float until a budget holds.

A group's damage is the squared error of the pictures when it alone is quantized; what it saves is its multiply-adds.
Groups go back to float in the order of damage for what they save. Damage of several groups is not the sum of each
one's, so every choice is measured whole.
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
from latentrt_calib.quantize.layers import Layer
from latentrt_calib.recording.record import Progress

pass

MOST_GROUPS = 96  # above, layers are measured together with their neighbours

# The mean PSNR in dB of the pictures with these layers quantized and no others; infinite where none differs.
Measure = Callable[[Sequence[Layer]], float]


def groups_of(layers: Sequence[Layer], most: int = MOST_GROUPS) -> list[tuple[Layer, ...]]:
    """Returns the layers in at most `most` groups: one each, or those of one module together, as deep as may be."""
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
    """Returns what each group costs when it alone is quantized; what the file at `path` knows is not measured again."""
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


def in_order(groups: Sequence[tuple[Layer, ...]], damage: Sequence[Damage]) -> list[tuple[Layer, ...]]:
    """Returns the groups, those first that do most damage for the multiply-adds they have."""

    def cost(pair: tuple[tuple[Layer, ...], Damage]) -> float:
        group, one = pair
        error = 0.0 if one.psnr_db is None else 10 ** (-one.psnr_db / 10)
        return error / max(1, sum(layer.macs for layer in group))

    return [group for group, _ in sorted(zip(groups, damage, strict=True), key=cost, reverse=True)]


def fewest_float(
    ordered: Sequence[tuple[Layer, ...]], budget_db: float, measure: Measure, progress: Progress
) -> tuple[int, float]:
    """Returns how many groups from the front must stay float for the budget, and the PSNR that this reaches.

    The number is doubled until the budget holds, then halved towards the least. Raises FidelityError where not even one
    quantized group meets the budget.
    """
    reached: dict[int, float] = {}

    def holds(count: int) -> bool:
        if count not in reached:
            layers = [layer for group in ordered[count:] for layer in group]
            reached[count] = measure(layers)
            progress(f"{count} of {len(ordered)} groups in float: {reached[count]:.2f} dB, asked for {budget_db:g}")
        return reached[count] >= budget_db

    low, high = -1, 0
    while not holds(high):
        if high == len(ordered) - 1:
            best = max(reached, key=lambda count: reached[count])
            worst = ", ".join(layer.name for group in ordered[: min(3, len(ordered))] for layer in group)
            raise FidelityError(
                f"the budget of {budget_db:g} dB cannot be met: the best was {reached[best]:.2f} dB with {best} of "
                f"{len(ordered)} groups in float; most stand in the way: {worst}; ask for a lower --budget"
            )
        low, high = high, min(max(1, 2 * high), len(ordered) - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, reached[high]


def load_damage(path: Path) -> list[Damage]:
    """The entries of a file, one a line; none where there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [parse(Damage, json.loads(line)) for line in lines]


def save_damage(path: Path, damage: Sequence[Damage]) -> None:
    """Writes the entries, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(one)) + "\n" for one in damage))
