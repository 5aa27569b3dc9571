"""Every sampler against the scheduler of diffusers 0.42.1 that it is to match, over every option that both have.

`FLAWS` are the combinations in which the reference itself is wrong, with what it does there.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tests.parity.harness import CURVES, SPACINGS, Case

STEPS = (1, 2, 5, 20, 50)
CURVED = tuple(CURVES)
TWO, THREE = ("epsilon", "v_prediction"), ("epsilon", "v_prediction", "sample")
SDE = {"algorithm_type": "sde-dpmsolver++"}


def product(sampler, scheduler, *, sigmas=("normal",), predictions=TWO, snr=False, **sides):
    """Returns a sampler's cases: predictions x spacings x curves, and zero terminal SNR with v where both have it."""
    cases = [
        Case(sampler, scheduler, prediction, spacing, curve, **sides)
        for prediction, spacing, curve in itertools.product(predictions, SPACINGS, sigmas)
    ]
    if snr:
        levels = itertools.product(SPACINGS, sigmas)
        cases += [Case(sampler, scheduler, "v_prediction", *level, zero_terminal_snr=True, **sides) for level in levels]
    return cases


def with_eta(eta):
    """Returns what makes DDIM noisy on both sides.

    The reference gets a little less than 1: at zero terminal SNR it takes the root of 1 - a - std^2, which is 0, and
    NaN where rounding makes it less. 4e-8 of the noise remains.
    """
    return {"options": {"eta": eta}, "step": {"eta": min(eta, 1 - 1e-15)}}


def of_order(order, solver=None):
    """Returns what sets the order, and the solver where there is one, on both sides."""
    options = {"order": order} | ({"solver": solver} if solver else {})
    config = {"solver_order": order} | ({"solver_type": solver} if solver else {})
    return {"options": options, "config": config}


def midpoint_or_heun(solver):
    """Returns what sets the solver of the SDE on both sides."""
    return {"options": {"solver": solver}, "config": {**SDE, "solver_type": solver}}


DPM = {"sigmas": CURVED, "predictions": THREE, "snr": True}
DPM_ORDERS = [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")]
PLMS = {"skip_prk_steps": True, "set_alpha_to_one": True}

CASES = [
    *product("ddim", "DDIMScheduler", predictions=THREE, snr=True),
    *[case for eta in (0.5, 1.0) for case in product("ddim", "DDIMScheduler", snr=True, **with_eta(eta))],
    *product("ddpm", "DDPMScheduler", predictions=THREE, snr=True),
    *product("pndm", "PNDMScheduler", predictions=("epsilon",), config=PLMS),
    *[
        case
        for order in (1, 2, 3, 4)
        for case in product(
            "lms", "LMSDiscreteScheduler", sigmas=CURVED, options={"order": order}, step={"order": order}
        )
    ],
    *product("euler", "EulerDiscreteScheduler", sigmas=CURVED, snr=True),
    *product("euler_a", "EulerAncestralDiscreteScheduler", snr=True),
    *product("heun", "HeunDiscreteScheduler", sigmas=CURVED),
    *product("dpm2", "KDPM2DiscreteScheduler", sigmas=CURVED),
    *product("dpm2_a", "KDPM2AncestralDiscreteScheduler", sigmas=CURVED),
    *[
        c
        for choice in DPM_ORDERS
        for c in product("dpmpp_2m", "DPMSolverMultistepScheduler", **DPM, **of_order(*choice))
    ],
    *product("dpmpp_sde", "DPMSolverSDEScheduler", sigmas=CURVED),
    *[
        case
        for solver in ("midpoint", "heun")
        for case in product("dpmpp_2m_sde", "DPMSolverMultistepScheduler", **DPM, **midpoint_or_heun(solver))
    ],
    *[
        case
        for choice in itertools.product((1, 2, 3), ("bh1", "bh2"))
        for case in product("unipc", "UniPCMultistepScheduler", **DPM, **of_order(*choice))
    ],
    *[
        case
        for order in (1, 2, 3)
        for case in product("deis", "DEISMultistepScheduler", sigmas=CURVED, predictions=THREE, **of_order(order))
    ],
    *product("lcm", "LCMScheduler", predictions=THREE, snr=True),
    *[
        case
        for gamma in (0.0, 0.3, 1.0)
        for case in product(
            "tcd", "TCDScheduler", predictions=THREE, snr=True, options={"gamma": gamma}, step={"eta": gamma}
        )
    ],
    *[Case("flow_euler", "FlowMatchEulerDiscreteScheduler", "flow_prediction", sigmas=curve) for curve in CURVED],
    Case("flow_heun", "FlowMatchHeunDiscreteScheduler", "flow_prediction"),
]


@dataclass(frozen=True)
class Flaw:
    """A combination in which the reference is wrong in exact arithmetic, and what it does there.

    left_out: how many steps at the end have to be left out for both to be compared; None where no run means anything.
    """

    what: str
    holds: Callable[[Case, int], bool]
    left_out: int | None = None

    def __str__(self):
        return self.what


FLAWS = [
    Flaw(
        "unipc with bh1 multiplies infinity by zero in the step to zero: all latents are NaN",
        lambda case, steps: case.options.get("solver") == "bh1" and steps > 1,
        left_out=1,
    ),
    Flaw(
        "the same, of which nothing is left without that step",
        lambda case, steps: case.options.get("solver") == "bh1" and steps == 1,
    ),
    Flaw(
        "pndm with linspace spacing takes its first step again from another level than that of its latents",
        lambda case, steps: case.sampler == "pndm" and case.spacing == "linspace" and steps in (2, 5, 20),
    ),
    Flaw(
        "deis under a curve goes from the only level to itself in one step: the noise is the result",
        lambda case, steps: case.sampler == "deis" and case.sigmas != "normal" and steps == 1,
    ),
]


def flaw_of(case, steps):
    """Returns the reference's flaw in a combination, or None."""
    return next((flaw for flaw in FLAWS if flaw.holds(case, steps)), None)


# Where the reference's float32 is far from its own float64: what of it is lost, and a combination that shows it.
LOSSES = {
    "deis of order 3 integrates in float32, where what is left after differences is mostly rounding": (
        Case("deis", "DEISMultistepScheduler", **of_order(3)),
        50,
    ),
    "euler with zero terminal SNR holds latents of 4096 in float32": (
        Case("euler", "EulerDiscreteScheduler", "v_prediction", "linspace", zero_terminal_snr=True),
        2,
    ),
    "euler_a with zero terminal SNR holds latents of 4096 in float32": (
        Case("euler_a", "EulerAncestralDiscreteScheduler", "v_prediction", "linspace", zero_terminal_snr=True),
        2,
    ),
    "dpm2_a takes the level of the noise to keep for a difference of squares in float32": (
        Case("dpm2_a", "KDPM2AncestralDiscreteScheduler", spacing="linspace", sigmas="exponential"),
        2,
    ),
}
