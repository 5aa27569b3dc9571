"""What diffusers' scheduler configs become, held against the classes themselves."""

import json
import math

import diffusers
import pytest

from latentrt.errors import CheckpointError
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.checkpoint.other_schedulers import OTHERS, STAND_INS
from latentrt_export.checkpoint.scheduler import (
    ABSENT,
    CURVES,
    SCHEDULERS,
    defaults_of,
    entry,
    ignored_entries,
    notices_of,
    sampler_of,
    schedule_of,
)
from tests.export.scheduler_entries import accepted

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# Entries of the classes that change nothing here: what only works beside another one that is reported, what stands for
# a UNet that predicts a variance, and what the class itself never reads.
IDLE = {
    *("trained_betas", "dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value", "flow_shift"),
    *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),
    *("euler_at_final", "variance_type", "algorithm_type", "solver_type"),
}
IDLE_OF = {
    # With levels that end at zero and order 2, the last step is of first order and the one before of second, always.
    "DPMSolverMultistepScheduler": {"lower_order_final", "use_dynamic_shifting"},
    "UniPCMultistepScheduler": {"use_dynamic_shifting", "shift_terminal"},
    "DEISMultistepScheduler": {"use_dynamic_shifting"},
    "TCDScheduler": {"timestep_scaling"},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_entry_left_out_means_what_the_class_means_by_it(name):
    known = accepted(name)
    config = {"_class_name": name}
    asked = (ABSENT.keys() | SCHEDULERS[name].harmless.keys()) & known.keys()
    assert {key: entry(config, key) for key in asked} == {key: known[key] for key in asked}
    assert SCHEDULERS[name].curves == (CURVES.keys() <= known.keys())


def test_every_scheduler_of_diffusers_is_known_or_stood_in_for_or_refused():
    """A class that a later diffusers adds is none of them, and fails here until it is looked at."""
    tables = (SCHEDULERS, STAND_INS, OTHERS)
    known = [name for name in dir(diffusers.schedulers) if name.endswith("Scheduler")]
    assert len(known) > 40
    assert {name: sum(name in table for table in tables) for name in known} == dict.fromkeys(known, 1)
    for name in OTHERS:
        with pytest.raises(CheckpointError, match=f"got _class_name '{name}', wh"):
            schedule_of({"_class_name": name})


@pytest.mark.parametrize("name", sorted(STAND_INS))
def test_what_another_sampler_stands_in_for_has_its_schedule(name):
    """Its noise and predictions are entries that are read, and mean the same where they are left out."""
    known, config = accepted(name), {"_class_name": name}
    assert {"beta_schedule", "prediction_type"} <= known.keys()
    asked = ABSENT.keys() & known.keys()
    assert {key: entry(config, key) for key in asked} == {key: known[key] for key in asked}
    assert schedule_of(config) == schedule_of({"_class_name": STAND_INS[name]})
    first, *_ = notices_of(config)
    assert first == f"{name} has no sampler here: {sampler_of(config)} replaces it, on the same noise schedule"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_entry_of_a_class_is_known_reported_or_idle(name):
    handled = ABSENT.keys() | SCHEDULERS[name].harmless.keys() | CURVES.keys() | IDLE | IDLE_OF.get(name, set())
    assert accepted(name).keys() <= handled
    assert SCHEDULERS[name].harmless.keys() <= accepted(name).keys()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_class_s_own_config_gives_its_sampler(name):
    config = json.loads(json.dumps(dict(getattr(diffusers, name)().config)))
    bare = {"_class_name": name}
    assert sampler_of(config | bare) == sampler_of(bare)
    assert schedule_of(config | bare) == schedule_of(bare)
    assert ignored_entries(config | bare) == ignored_entries(bare)
    assert SAMPLERS[sampler_of(bare)].flow == (schedule_of(bare).prediction == "flow_prediction")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, NoiseSchedule(1000, "linear", 0.0001, 0.02, "epsilon", False, "leading", 0, "one")),
        (
            {"_class_name": "PNDMScheduler", **STABLE, "steps_offset": 1, "skip_prk_steps": True},
            NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "first"),
        ),
        (
            {"_class_name": "DDIMScheduler", **STABLE, "set_alpha_to_one": False, "prediction_type": "v_prediction"},
            NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "v_prediction", False, "leading", 0, "first"),
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", **STABLE, "trained_betas": None, "num_train_timesteps": 500},
            NoiseSchedule(500, "scaled_linear", 0.00085, 0.012, "epsilon", False, "linspace", 0, "one"),
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "squaredcos_cap_v2"},
            NoiseSchedule(1000, "squaredcos_cap_v2", 0.0001, 0.02, "epsilon", False, "linspace", 0, "one"),
        ),
        (
            {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            NoiseSchedule(1000, "linear", 0.0001, 0.02, "epsilon", True, "trailing", 0, "one"),
        ),
        (
            {"_class_name": "LCMScheduler"},
            NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 0, "one"),
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3},
            NoiseSchedule(1000, "linear", 0.0001, 0.02, "flow_prediction", False, "leading", 0, "one", 3.0),
        ),
    ],
)
def test_schedule_of_a_scheduler_s_config(config, expected):
    assert schedule_of(config) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule.*sigmoid"),
        ({"prediction_type": "flow_prediction"}, "prediction.*flow_prediction"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "with UniPC.*FlowMatch"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler", "prediction_type": "epsilon"}, "epsilon with FlowMatchHeun"),
        ({"_class_name": "SomethingNew"}, "SomethingNew', which is unknown here.*expected one with betas"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "EDMEulerScheduler', whose .* EDM"),
        ({"_class_name": ["DDIMScheduler"]}, "_class_name"),
        ({"timestep_spacing": "karras"}, "spacing.*karras"),
        ({"num_train_timesteps": "many"}, "train_steps.*many"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "high"}, "shift.*high"),
    ],
)
def test_a_schedule_that_is_not_known_is_refused(config, message):
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json.*{message}"):
        schedule_of(config)


@pytest.mark.parametrize(
    ("config", "sampler", "sigmas"),
    [
        ({}, "ddim", "normal"),
        ({"_class_name": "SomethingNew"}, "ddim", "normal"),
        ({"_class_name": "DDIMScheduler"}, "ddim", "normal"),
        ({"_class_name": "DDIMScheduler", "use_karras_sigmas": True}, "ddim", "normal"),
        ({"_class_name": "DDPMScheduler"}, "ddpm", "normal"),
        ({"_class_name": "PNDMScheduler"}, "ddim", "normal"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": False}, "ddim", "normal"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "pndm", "normal"),
        ({"_class_name": "LMSDiscreteScheduler", "use_beta_sigmas": True}, "lms", "beta"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "euler", "karras"),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, "euler_a", "normal"),
        ({"_class_name": "HeunDiscreteScheduler", "use_exponential_sigmas": True}, "heun", "exponential"),
        ({"_class_name": "KDPM2DiscreteScheduler"}, "dpm2", "normal"),
        ({"_class_name": "KDPM2AncestralDiscreteScheduler"}, "dpm2_a", "normal"),
        ({"_class_name": "DPMSolverSDEScheduler", "use_karras_sigmas": True}, "dpmpp_sde", "karras"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": False}, "dpmpp_2m", "normal"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", "normal"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "dpmpp_2m", "normal"),
        ({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True}, "unipc", "karras"),
        ({"_class_name": "DEISMultistepScheduler"}, "deis", "normal"),
        ({"_class_name": "LCMScheduler"}, "lcm", "normal"),
        ({"_class_name": "TCDScheduler"}, "tcd", "normal"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow_euler", "normal"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "flow_heun", "normal"),
    ],
)
def test_defaults_of_a_scheduler_s_config(config, sampler, sigmas):
    defaults = defaults_of(config, 512, steps=20, guidance=7.5)
    assert (defaults.sampler, defaults.sigmas) == (sampler, sigmas)
    assert (defaults.width, defaults.height, defaults.steps, defaults.guidance) == (512, 512, 20, 7.5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, []),
        ({"_class_name": "SomethingNew"}, ["_class_name = 'SomethingNew'"]),
        ({"_class_name": "DDIMScheduler"}, ["clip_sample = True"]),
        ({"_class_name": "DDIMScheduler", "clip_sample": False, "solver_order": 3}, []),
        ({"_class_name": "PNDMScheduler"}, ["skip_prk_steps = False"]),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, []),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf, "euler_at_final": True}, []),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "solver_type": "heun"},
            ["solver_order = 3", "solver_type = 'heun'"],
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "bh2"}, []),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
            ["algorithm_type = 'dpmsolver'"],
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, []),
        (
            {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1", "solver_order": 1},
            ["solver_order = 1", "solver_type = 'bh1'"],
        ),
        ({"_class_name": "DEISMultistepScheduler", "solver_order": 3, "solver_type": "midpoint"}, ["solver_order = 3"]),
        (
            {"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_min"},
            ["final_sigmas_type = 'sigma_min'"],
        ),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 100}, ["original_inference_steps = 100"]),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            ["use_dynamic_shifting = True"],
        ),
    ],
)
def test_what_is_ignored_is_said(config, expected):
    assert ignored_entries(config) == expected


def test_stable_diffusion_1_5_keeps_its_authors_scheduler():
    config = json.loads((FAMILIES[0].configs / "scheduler.json").read_text())
    assert sampler_of(config) == "pndm"
    assert ignored_entries(config) == []
