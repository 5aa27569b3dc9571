"""Parts of a layer's report: the reason for staying float, and the input's range per range of timesteps."""

from __future__ import annotations

from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.observing.observations import Observations
from latentrt_calib.quantize.planning import PlannedLayer
from latentrt_export.graph.layers import Layer

BY_RULE, OVER_BUDGET, WEIGHTS_ONLY = "first or last convolution", "over the budget", "weights only"
FIRST_OR_LAST, FOUR_BITS, EIGHT_BITS = "first or last layer", "weights in 4 bits", "weights in 8 bits"
HALF = "fp16"


def over_budget(damage: Damage) -> str:
    """The reason of a layer that stays float for the budget, with the PSNR if it or its group alone is quantized."""
    count = len(damage.layers)
    what = "quantized alone" if count == 1 else f"the {count} layers around it quantized alone"
    return OVER_BUDGET if damage.psnr_db is None else f"{OVER_BUDGET}: {what}, pictures have {damage.psnr_db:.1f} dB"


def eight_bits_for_budget(damage: Damage) -> str:
    """The reason of a layer whose weights keep 8 bits for the budget, with the PSNR if it alone has 4."""
    return f"{EIGHT_BITS}, {over_budget(damage)}"


def in_single(magnitude: float) -> str:
    """The reason of an operator that stays float32, with the largest magnitude that it computes or reads."""
    return f"float32, as values reach {magnitude:.3g}"


def ranges_of(
    planned: PlannedLayer | None, observations: Observations, layer: Layer
) -> tuple[tuple[float, float] | None, tuple[tuple[float, float] | None, ...], float | None]:
    """The quantized input range, the extremes per bucket, and SmoothQuant's alpha."""
    if planned is None:
        return None, (), None
    return (planned.clip.low, planned.clip.high), bucket_ranges(observations, layer.input), planned.alpha


def bucket_ranges(observations: Observations, value: str) -> tuple[tuple[float, float] | None, ...]:
    """The extremes of an activation per bucket of timesteps, highest first; None for a bucket without steps."""
    histograms = reversed(observations[value].histograms)
    return tuple((one.low, one.high) if one.count else None for one in histograms)


def bucket_ends(buckets: int, train_steps: int) -> tuple[tuple[float, float], ...]:
    """The highest and the lowest timestep of each bucket, in the order of a run."""
    width = train_steps / buckets
    return tuple(((number + 1) * width - 1, number * width) for number in reversed(range(buckets)))
