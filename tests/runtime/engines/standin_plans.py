"""Plans for the stand-in of TensorRT, and feeds for their components."""

import json
from dataclasses import asdict, replace

import numpy as np

from latentrt.engines.artifacts import graph_digest
from latentrt.engines.nvidia.lowered import digest_of, flag_of
from latentrt.engines.nvidia.plans import STRIPPED, PlanKey, Shapes, plan_store
from latentrt.tensors import shape_of

VERSION = "10.3.0"
LARGEST = {"batch": 2, "tokens": 77, "n": 1000, "height": 16, "width": 16}
SIZES = {"batch": 2, "tokens": 32, "n": 3, "height": 8, "width": 6}


def profile_of(component, smallest, largest):
    return tuple(
        Shapes(spec.name, shape_of(spec, smallest), shape_of(spec, largest), shape_of(spec, largest))
        for spec in component.inputs
    )


def lowered_flag(bundle, name):
    return flag_of(digest_of(bundle, name, "decomposed"))


def key_of(bundle, name, profiles=None, flags=("level=3",), **changes):
    component = bundle.manifest.components[name]
    ones = dict.fromkeys(LARGEST, 1)
    key = PlanKey(
        graph_digest(bundle.manifest, component),
        profiles or (profile_of(component, ones, LARGEST),),
        (lowered_flag(bundle, name), *flags),
        "tensorrt",
        VERSION,
        "Stand-in",
        "sm87",
    )
    return replace(key, **changes)


def build(bundle, name, profiles=None, **changes):
    """Builds a plan of the stand-in and returns its path."""
    key = key_of(bundle, name, profiles, **changes)
    profiles = [[asdict(own) for own in one] for one in key.profiles]
    plan = json.dumps({"component": name, "profiles": profiles, "stripped": STRIPPED in key.flags})
    return plan_store(bundle.folder).build(key, lambda path: [path.write_text(plan), None][1])


def build_all(bundle, **changes):
    return [build(bundle, name, **changes) for name in bundle.manifest.components]


def feeds_of(bundle, name, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        spec.name: np.ones(shape_of(spec, sizes), np.int64)
        if spec.dtype == "int64"
        else rng.standard_normal(shape_of(spec, sizes)).astype(spec.dtype)
        for spec in bundle.manifest.components[name].inputs
    }
