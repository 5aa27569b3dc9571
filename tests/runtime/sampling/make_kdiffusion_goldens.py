"""Writes kdiffusion.json: where k-diffusion's samplers end on two closed-form models, in float64.

    python -m venv goldens && goldens/bin/pip install torch==2.13.0 scipy tqdm torchdiffeq torchsde
    goldens/bin/pip install --no-deps k-diffusion==0.1.1.post1
    goldens/bin/python tests/runtime/sampling/make_kdiffusion_goldens.py

The tests that read it run where none of this is installed. What the file's entries mean is in MEANING.
"""

import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).parent / "kdiffusion.json"
SHAPE = (1, 4, 6, 5)
STRIDE = 7
MEAN, DEVIATION = 0.7, 0.5
SIGMA_MAX, SIGMA_MIN, LAST = 14.6, 0.03, 0.1  # the last one of the lists that do not end at 0

MEANING = {
    "model": "E[x0 | y] where y = x0 + sigma * noise; gaussian, x0 ~ N(0.7, 0.5^2): (0.25 y + 0.7 sigma^2) /"
    " (0.25 + sigma^2); two points, x0 = 1 or -1, equally likely: tanh(y / sigma^2)",
    "start": "y = sigmas[0] * numpy.random.default_rng(0).standard_normal((1, 4, 6, 5)), float64",
    "noise": "call number i of the noise sampler, from 0 and whatever the sigmas that it is asked for, gives"
    " numpy.random.default_rng(1000 + i).standard_normal((1, 4, 6, 5))",
    "sampler": "the function's name in k_diffusion.sampling without sample_; options are its arguments",
    "result": "y.flatten()[::7] after the last step",
    "crashes": "cases without a result, because k-diffusion raises an error there",
}

DETERMINISTIC = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
# Samplers that take a noise_sampler and eta, with the options that make one of them two.
STOCHASTIC: tuple[tuple[str, dict[str, str]], ...] = (
    ("euler_ancestral", {}),
    ("dpm_2_ancestral", {}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_sde", {}),
    ("dpmpp_2m_sde", {"solver_type": "midpoint"}),
    ("dpmpp_2m_sde", {"solver_type": "heun"}),
    ("dpmpp_3m_sde", {}),
)
ETAS = (1.0, 0.5, 0.0)


def gaussian(y: Tensor, sigma: Tensor) -> Tensor:
    """Returns E[x0 | y] for x0 ~ N(MEAN, DEVIATION^2): linear in y."""
    variance = DEVIATION**2
    return (variance * y + sigma**2 * MEAN) / (variance + sigma**2)


def two_points(y: Tensor, sigma: Tensor) -> Tensor:
    """Returns E[x0 | y] for x0 = 1 or -1, equally likely."""
    return torch.tanh(y / sigma**2)


MODELS = {"gaussian": gaussian, "two points": two_points}


def load_sampling() -> ModuleType:
    """Returns k_diffusion.sampling without what the package imports for training alone."""
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None and spec.submodule_search_locations is not None
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    for name in ("PIL", "safetensors", "torchvision", "torchvision.transforms"):
        sys.modules[name] = ModuleType(name)
    sys.modules["PIL"].Image = sys.modules["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")


def sigma_lists(sampling: ModuleType) -> dict[str, Tensor]:
    """Returns Karras sigmas by number of steps: some with a last step to 0, some that end above it.

    At 0 the two-point model says little, because each y ends at 1 or -1 almost whatever the sampler does.
    """
    karras = sampling.get_sigmas_karras
    whole = {f"karras {n}": karras(n, SIGMA_MIN, SIGMA_MAX) for n in (1, 2, 5, 20)}
    return whole | {f"karras {n} to {LAST}": karras(n + 1, LAST, SIGMA_MAX)[:-1] for n in (2, 5, 20)}


def choices(names: list[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields sampler, options and the name of the sigmas; other etas than 1 only at five steps."""
    yield from ((sampler, {}, name) for sampler, name in itertools.product(DETERMINISTIC, names))
    for (sampler, options), eta, name in itertools.product(STOCHASTIC, ETAS, names):
        if eta == 1 or name.startswith("karras 5"):
            yield sampler, {**options, "eta": eta}, name


def noises() -> Callable[[Any, Any], Tensor]:
    """Returns a noise_sampler whose call number i draws from a generator seeded with 1000 + i."""
    seeds = itertools.count(1000)
    return lambda sigma, sigma_next: torch.from_numpy(np.random.default_rng(next(seeds)).standard_normal(SHAPE))


def final(
    sample: Callable[..., Tensor], model: Callable[..., Tensor], sigmas: Tensor, options: dict[str, Any]
) -> Tensor:
    """Returns where a sampler ends, float64 (1, 4, 6, 5)."""
    start = sigmas[0] * torch.from_numpy(np.random.default_rng(0).standard_normal(SHAPE))
    noise = {"noise_sampler": noises()} if "eta" in options else {}
    y = sample(lambda y, sigma: model(y, sigma.view(-1, 1, 1, 1)), start, sigmas, disable=True, **noise, **options)
    assert y.dtype == torch.float64 and y.isfinite().all()
    return y


def goldens() -> dict[str, Any]:
    """Returns everything that the tests compare with."""
    sampling = load_sampling()
    lists = sigma_lists(sampling)
    cases, crashes = [], []
    for model, (sampler, options, sigmas) in itertools.product(MODELS, choices(list(lists))):
        case = {"sampler": sampler, "options": options, "model": model, "sigmas": sigmas}
        try:
            y = final(getattr(sampling, f"sample_{sampler}"), MODELS[model], lists[sigmas], options)
        except UnboundLocalError as error:  # a single step down to 0, in two of them
            crashes.append({**case, "error": type(error).__name__})
        else:
            cases.append({**case, "result": y.flatten()[::STRIDE].tolist()})
    return {
        "meaning": MEANING,
        "made_with": {"k-diffusion": version("k-diffusion"), "torch": torch.__version__, "numpy": np.__version__},
        "sigmas": {name: values.tolist() for name, values in lists.items()},
        "cases": cases,
        "crashes": crashes,
    }


def section(content: Any) -> str:
    """Returns an object or a list as JSON, a line an entry: differences stay readable."""
    if isinstance(content, dict):
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "\n}"
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in content) + "\n]"


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)  # get_sigmas_karras has no dtype of its own
    GOLDENS.write_text("{\n" + ",\n".join(f'"{name}": {section(part)}' for name, part in goldens().items()) + "\n}\n")
