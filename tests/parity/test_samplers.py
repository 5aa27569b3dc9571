"""Every sampler ends where diffusers' scheduler does, to 1e-4 of the largest value, from the same noise and draws.

`python -m benchmarks.sampler_parity` runs every combination; here each case has its turn at one of the smaller numbers
of steps, and every sampler all of them. Where the reference is wrong, that it is so is tested too: `cases.FLAWS`.
"""

from dataclasses import replace

import numpy as np
import pytest

import latentrt
from latentrt.samplers import SAMPLERS
from tests.one_thread import one_thread
from tests.parity.cases import CASES, CLOSE, FLAWS, PLMS, SDE, STEPS, flaw_of
from tests.parity.harness import Case, closed_form, difference, material, ours, theirs, unet_model

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


def failures(cases_at, model_of):
    """Returns what is not close, by case and number of steps."""
    found = {}
    for case, steps in cases_at:
        flaw = flaw_of(case, steps)
        if flaw is None or flaw.run is not None:
            apart = difference(case, model_of(case), steps, **(flaw.run if flaw else {}))
            if not apart <= (flaw.bound if flaw else CLOSE):
                found[str(case), steps] = apart
    return found


def test_every_sampler_that_diffusers_has_is_compared():
    assert {case.sampler for case in CASES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_case(name):
    cases = [case for case in CASES if case.sampler == name]
    assert not failures([(case, STEPS[i % 3]) for i, case in enumerate(cases)], closed_form)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_steps(name):
    assert not failures([(DEFAULT[name], steps) for steps in STEPS], closed_form)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_built_in_unet(name):
    with latentrt.load("emoji") as pipeline:
        model = unet_model(pipeline)
        assert not failures([(DEFAULT[name], steps) for steps in (1, 2, 12)], lambda _: model)


# Not pndm: diffusers cuts its list of timesteps, which has one entry more, in the middle of the first step's two calls.
STARTING = [name for name in NAMES if not SAMPLERS[name].flow and name != "pndm"]


@pytest.mark.parametrize("name", STARTING)
@pytest.mark.parametrize(("start", "steps"), [(1, 2), (2, 5), (13, 20)])
def test_from_a_noised_image(name, start, steps):
    case = replace(DEFAULT[name], start=start)
    if name == "lms":  # of higher order, diffusers adds up the slopes that it has under the weights of more
        case = replace(case, options={"order": 1}, step={"order": 1})
    assert difference(case, closed_form(case), steps) <= CLOSE


@pytest.mark.parametrize("flaw", [flaw for flaw in FLAWS if flaw.run is None or flaw.bound > CLOSE], ids=str)
def test_flaws_are_the_reference_s(flaw):
    case, steps = next((case, n) for case in CASES for n in STEPS if flaw.holds(case, n) and seen(flaw, case, n))
    noise, draws = material(steps)
    exact = ours(case, closed_form(case), steps, noise, draws, dtype=np.float64)
    single = ours(case, closed_form(case), steps, noise, draws)
    theirs_is = theirs(case, closed_form(case), steps, noise, draws)
    assert np.abs(single - exact).max() < CLOSE
    assert not np.abs(theirs_is - exact).max() < CLOSE


def seen(flaw, case, steps):
    """Returns whether a flaw shows in a combination: it may in only some of those that it is declared for."""
    noise, draws = material(steps)
    apart = ours(case, closed_form(case), steps, noise, draws) - theirs(case, closed_form(case), steps, noise, draws)
    return not np.abs(apart).max() < CLOSE


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
    apart = {
        steps: difference(Case("dpmpp_3m_sde", "DPMSolverMultistepScheduler", **options), model, steps)
        for model in [closed_form(DEFAULT["ddim"])]
        for steps in (2, 20)
    }
    assert apart[2] < CLOSE < 1e-2 < apart[20]  # its first steps are of lower order
