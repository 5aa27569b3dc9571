"""Samplers and curves by the names of other tools."""

from dataclasses import replace
from typing import get_args

import pytest

from latentrt.bundle.folder import Bundle
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.names import (
    CURVE_NAMES,
    SAMPLER_NAMES,
    WITH_OPTIONS,
    curve_label,
    curve_of,
    label,
    sampler_named,
)

# AUTOMATIC1111 1.10's and earlier names, ComfyUI's, k-diffusion's, InvokeAI's; what each stands for.
KNOWN = {
    "Euler a": ("euler_a", None),
    "EULER A": ("euler_a", None),
    "euler": ("euler", None),
    "LMS Karras": ("lms", "karras"),
    "Heun": ("heun", None),
    "DPM2": ("dpm2", None),
    "DPM2 a Karras": ("dpm2_a", "karras"),
    "DPM++ 2S a": ("dpmpp_2s_a", None),
    "DPM++ 2S a Karras": ("dpmpp_2s_a", "karras"),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "dpm++ 2m karras": ("dpmpp_2m", "karras"),
    "DPM++ 2M SGM Uniform": ("dpmpp_2m", "sgm_uniform"),
    "DPM++ 2M Align Your Steps": ("dpmpp_2m", "ays"),
    "DPM++ SDE": ("dpmpp_sde", None),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 3M SDE Karras": ("dpmpp_3m_sde", "karras"),
    "DDIM": ("ddim", None),
    "PLMS": ("pndm", None),
    "UniPC": ("unipc", None),
    "LCM": ("lcm", None),
    "euler_ancestral": ("euler_a", None),
    "dpm_2": ("dpm2", None),
    "dpm_2_ancestral": ("dpm2_a", None),
    "dpmpp_2s_ancestral": ("dpmpp_2s_a", None),
    "dpmpp_sde_gpu": ("dpmpp_sde", None),
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", None),
    "uni_pc": ("unipc", None),
    "k_dpmpp_2m_ka": ("dpmpp_2m", "karras"),
    "k_euler_a": ("euler_a", None),
    "sample_dpmpp_2m": ("dpmpp_2m", None),
    "dpmpp_2m_k": ("dpmpp_2m", "karras"),
    "dpm++2s_a": ("dpmpp_2s_a", None),
    "EulerAncestralDiscreteScheduler": ("euler_a", None),
}


@pytest.mark.parametrize(("name", "meant"), KNOWN.items(), ids=KNOWN)
def test_names_of_other_tools(bundle: Bundle, name: str, meant: tuple[str, str | None]) -> None:
    settings = resolve(Request("a", sampler=name), bundle.manifest)
    assert (settings.sampler, settings.sigmas) == (meant[0], meant[1] or bundle.manifest.defaults.sigmas)


@pytest.mark.parametrize("name", ["DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun Karras"])
def test_a_name_may_say_an_option(bundle: Bundle, name: str) -> None:
    settings = resolve(Request("a", sampler=name), bundle.manifest)
    assert (settings.sampler, settings.options["solver"]) == ("dpmpp_2m_sde", "heun")
    assert resolve(Request("a", sampler=name, solver="midpoint"), bundle.manifest).options["solver"] == "midpoint"
    assert resolve(Request("a", sampler="dpmpp_2m_sde"), bundle.manifest).options["solver"] == "midpoint"


@pytest.mark.parametrize(
    "name", ["DPM adaptive", "DPM fast", "Restart", "euler_cfg_pp", "DPM++", "Karras", "", "k", "2m"]
)
def test_other_names_list_what_is_known(bundle: Bundle, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(Request("a", sampler=name), bundle.manifest)
    assert str(caught.value).startswith(f"sampler: got {name!r}, expected one of {', '.join(SAMPLERS)}, or a name")


def test_two_curves_are_refused(bundle: Bundle) -> None:
    both = Request("a", sampler="DPM++ 2M Karras", sigmas="beta")
    with pytest.raises(
        RequestError, match="sigmas: got 'beta' with the sampler 'DPM\\+\\+ 2M Karras', which says karras"
    ):
        resolve(both, bundle.manifest)
    assert resolve(replace(both, sigmas="Karras"), bundle.manifest).sigmas == "karras"


@pytest.mark.parametrize("curve", get_args(SigmasName))
def test_curves_by_other_tools_names(bundle: Bundle, curve: SigmasName) -> None:
    assert all(curve_of(name) == curve for name in (curve, curve.upper(), *CURVE_NAMES[curve]))
    named = curve if curve == "ays_sdxl" else curve_label(curve)
    assert resolve(Request("a", sigmas=named), bundle.manifest).sigmas == curve
    assert curve_label(curve)


def test_every_sampler_has_names_and_no_name_has_two(bundle: Bundle) -> None:
    assert list(SAMPLER_NAMES) == list(SAMPLERS)
    for sampler, names in SAMPLER_NAMES.items():
        assert all(sampler_named(name).sampler == sampler for name in (sampler, label(sampler), *names))
    assert all(sampler_named(name) == named for name, named in WITH_OPTIONS.items())
