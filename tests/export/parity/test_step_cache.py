"""Step caching against diffusers' pipelines, whose UNets take the features of an earlier call in place of their own."""

from dataclasses import replace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler

from tests.export.pairs import Pair, opened_pair, steered, steered_pair
from tests.sweep import rest_swept, sweep

FULL = (0, 2, 5, 6)  # of 7 calls


class Cached:
    """A block in which a UNet of diffusers caches the deep features of full calls, as DeepCache does.

    A layer of an up block is given the deep features and the skip as one tensor, the deep ones first.
    """

    def __init__(self, unet, boundary, full=FULL):
        layer = unet.up_blocks[-1].resnets[-boundary]
        before = unet.up_blocks[-2] if boundary == len(unet.up_blocks[-1].resnets) else unet.up_blocks[-1]
        self.width, self.full, self.call, self.features = before.resnets[0].out_channels, full, -1, None
        self.handles = [
            unet.register_forward_pre_hook(self.count, with_kwargs=True),
            layer.register_forward_pre_hook(self.exchange),
        ]

    def count(self, _unet, _args, _kwargs):
        self.call += 1

    def exchange(self, _layer, args):
        whole, *rest = args
        if self.call in self.full:
            self.features = whole[:, : self.width].clone()
        return (torch.cat([self.features, whole[:, self.width :]], 1), *rest)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        for handle in self.handles:
            handle.remove()


CASES = [("sd1", 1), ("sd2", 2), ("sdxl", 1), ("sdxl", 2)]


@pytest.fixture(scope="module", params=rest_swept(CASES, [("sd1", 1)]), ids=lambda one: f"{one}")
def pair(request, tmp_path_factory) -> tuple[Pair, int]:
    name, boundary = request.param
    return opened_pair(name, tmp_path_factory.mktemp(name), step_cache=boundary), boundary


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_cached_steps_are_those_of_diffusers(pair, guidance):
    pair, boundary = pair
    with Cached(pair.theirs.unet, boundary):
        found = pair.psnr(steps=7, guidance=guidance, cache=FULL)
    assert found > 100
    assert pair.psnr(steps=7, guidance=guidance, cache=FULL) < 100  # the cache changes the picture


@pytest.mark.parametrize("calls", [(0,), (0, 1)])
def test_runs_of_one_and_two_steps(pair, calls):
    pair, boundary = pair
    with Cached(pair.theirs.unet, boundary, calls):
        assert pair.psnr(steps=len(calls), guidance=3.0, cache=3) > 100


def test_a_sampler_of_two_calls_a_step_caches_by_call(pair):
    pair, boundary = pair
    heun = pair.with_scheduler(HeunDiscreteScheduler.from_config(pair.scheduler.config))
    with Cached(pair.theirs.unet, boundary):
        assert heun.psnr(steps=4, guidance=3.0, cache=FULL) > 100


def test_a_multistep_sampler(pair):
    pair, boundary = pair
    solver = pair.with_scheduler(DPMSolverMultistepScheduler.from_config(pair.scheduler.config))
    with Cached(pair.theirs.unet, boundary):
        assert solver.psnr(steps=7, guidance=3.0, cache=FULL) > 100


def test_one_call_of_the_unet_a_prompt_gives_the_same(pair):
    pair, boundary = pair
    split = replace(pair, ours=pair.ours.with_engines({}))
    split.ours.split_guidance = True
    with Cached(pair.theirs.unet, boundary):
        assert split.psnr(steps=7, guidance=3.0, cache=FULL) > 100


@sweep
@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_a_controlnet_beside_the_shallow_unet(name, tmp_path):
    pair = steered_pair(name, tmp_path, step_cache=2)
    assert "control_canny_shallow" in pair.ours.bundle.manifest.components
    with Cached(pair.theirs.unet, 2):
        controlled = steered(pair, steps=7, cache=FULL)[0]
    assert controlled > 100
