"""Every sampler ends where diffusers' scheduler does, from the same noise and draws; `harness` says how close.

`python -m benchmarks.sampler_parity` runs every combination; here each case has its turn at one of the smaller numbers
of steps, and every sampler all of them. Where the reference is wrong, that it is so is tested too: `cases.FLAWS` and
`cases.LOSSES`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import latentrt
from latentrt.sampling.samplers import SAMPLERS
from tests.one_thread import one_thread
from tests.parity.cases import CASES, FLAWS, LOSSES, PLMS, SDE, STEPS, flaw_of, with_eta
from tests.parity.harness import (
    FLOOR,
    ROUNDING,
    SAME,
    Case,
    Comparison,
    closed_form,
    material,
    ours,
    scheduler_of,
    theirs,
    unet_model,
)
from tests.sweep import rest_swept

pytestmark = pytest.mark.filterwarnings("ignore:.*scalar:DeprecationWarning")
# In diffusers: k-diffusion's sampler has none, and the third order on the SDE has a wrong sign (see the last test).
WITHOUT = {"dpmpp_2s_a", "dpmpp_3m_sde"}
NAMES = sorted(SAMPLERS.keys() - WITHOUT)


def is_default(case):
    """Returns whether a case leaves every option as it is."""
    options = SAMPLERS[case.sampler].options
    return all(options[name].default == value for name, value in case.options.items())


DEFAULT = {name: next(case for case in CASES if case.sampler == name and is_default(case)) for name in NAMES}


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    with one_thread():
        yield


def failures(cases_at):
    """Returns what is not close on the closed form, by case and number of steps."""
    found = {}
    for case, steps in cases_at:
        flaw = flaw_of(case, steps)
        if flaw is None or flaw.left_out is not None:
            comparison = Comparison(case, closed_form(case), steps, flaw.left_out if flaw else 0)
            if not comparison.close:
                found[str(case), steps] = str(comparison)
    return found


def test_every_sampler_that_diffusers_has_is_compared():
    assert {case.sampler for case in CASES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_case(name):
    cases = [case for case in CASES if case.sampler == name]
    assert not failures([(case, STEPS[i % 3]) for i, case in enumerate(cases)])


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_steps(name):
    assert not failures([(DEFAULT[name], steps) for steps in STEPS])


@pytest.mark.parametrize("name", rest_swept(NAMES, ["ddim", "dpmpp_2m", "euler_a"]))
def test_on_the_built_in_unet(name):
    """The reference computes in float32 and amplifies rounding: the gate is its own error."""
    with latentrt.load("emoji") as pipeline:
        model = unet_model(pipeline)
        for steps in (1, 2, 12):
            comparison = Comparison(DEFAULT[name], model, steps)
            allowed = ROUNDING * comparison.their_rounding + 1e-4
            assert max(comparison.apart, comparison.rounding) <= allowed, f"{steps} steps: {comparison}"


# Not pndm: diffusers cuts its list of timesteps, which has one entry more, in the middle of the first step's two calls.
STARTING = [name for name in NAMES if not SAMPLERS[name].flow and name != "pndm"]


@pytest.mark.parametrize("name", STARTING)
@pytest.mark.parametrize(("start", "steps"), [(1, 2), (2, 5), (13, 20)])
def test_from_a_noised_image(name, start, steps):
    case = replace(DEFAULT[name], start=start)
    if name == "lms":  # of higher order, diffusers adds up the slopes that it has under the weights of more
        case = replace(case, options={"order": 1}, step={"order": 1})
    assert not failures([(case, steps)])


@pytest.mark.parametrize("flaw", [flaw for flaw in FLAWS if flaw.left_out is None], ids=str)
def test_flaws_are_the_reference_s(flaw):
    case, steps = next((case, n) for case in CASES for n in STEPS if flaw.holds(case, n))
    comparison = Comparison(case, closed_form(case), steps)
    assert comparison.rounding <= FLOOR
    assert not comparison.apart < 100 * SAME


@pytest.mark.parametrize("what", LOSSES)
def test_losses_are_the_reference_s(what):
    case, steps = LOSSES[what]
    comparison = Comparison(case, closed_form(case), steps)
    assert comparison.close and comparison.rounding <= FLOOR
    assert comparison.their_rounding > FLOOR  # how much more differs by processor


def test_ddim_with_eta_1_and_zero_terminal_snr_takes_the_root_of_what_rounding_made_negative():
    """The reference's first step leaves 1 - a - sqrt(1 - a)^2 of the noise: below zero for about half of all a."""
    case = Case("ddim", "DDIMScheduler", "v_prediction", "trailing", zero_terminal_snr=True, **with_eta(1.0))
    scheduler, sample = scheduler_of(case), torch.ones(1, 1, 2, 2)
    scheduler.set_timesteps(2)
    first, second = scheduler.timesteps
    assert scheduler.alphas_cumprod[first] == 0
    signals = torch.linspace(0.05, 0.95, 101)
    results = []
    for signal in signals:
        scheduler.alphas_cumprod[second] = signal
        step = scheduler.step(sample, first, sample, eta=1.0, variance_noise=torch.zeros_like(sample))
        results.append(step.prev_sample)
    broken = [not result.isfinite().all() for result in results]
    assert 10 < sum(broken) < 91
    assert broken == [bool(1 - signal - ((1 - signal) ** 0.5) ** 2 < 0) for signal in signals]


def test_pndm_averages_the_noise_where_the_reference_averages_v():
    errors = {}
    for prediction in ("epsilon", "v_prediction"):
        case = Case("pndm", "PNDMScheduler", prediction, "trailing", config=PLMS)
        exact = ours(replace(case, sampler="dpmpp_2m"), closed_form(case), 500, *material(500), dtype=np.float64)
        for steps in (50, 100):
            for side in (ours, theirs):
                apart = side(case, closed_form(case), steps, *material(steps)) - exact
                errors[side.__name__, prediction, steps] = np.abs(apart).max()
    assert errors["theirs", "epsilon", 100] == pytest.approx(errors["ours", "epsilon", 100], rel=0.01)
    assert errors["ours", "v_prediction", 100] == pytest.approx(errors["ours", "epsilon", 100], rel=0.01)
    assert errors["theirs", "v_prediction", 100] > 4 * errors["ours", "v_prediction", 100]
    assert errors["theirs", "v_prediction", 50] / errors["theirs", "v_prediction", 100] < 2.1  # first order


def test_the_reference_s_third_order_on_the_sde_does_not_follow_k_diffusion():
    options = {"config": {**SDE, "solver_order": 3, "solver_type": "heun"}}
    case = Case("dpmpp_3m_sde", "DPMSolverMultistepScheduler", **options)
    apart = {steps: Comparison(case, closed_form(DEFAULT["ddim"]), steps).apart for steps in (2, 20)}
    assert apart[2] < SAME < 1e-2 < apart[20]  # its first steps are of lower order
