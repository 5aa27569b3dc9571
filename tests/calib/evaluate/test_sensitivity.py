"""Which layers stay float: groups, their order, and the fewest that meet a budget, against plain search."""

import random

import pytest

from latentrt.errors import FidelityError
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.evaluate.sensitivity import fewest_float, groups_of, in_order
from latentrt_export.graph.layers import Layer


def layer(name, macs=100):
    return Layer(name, name, "Conv", "x", "y", f"{name}.weight", macs, (), "")


LAYERS = [layer(f"{side}.{block}.conv{place}") for side in ("down", "up") for block in range(3) for place in range(2)]


def test_every_layer_is_a_group_where_there_is_room():
    assert groups_of(LAYERS, 12) == [(one,) for one in LAYERS]


@pytest.mark.parametrize(("most", "sizes"), [(11, [2] * 6), (6, [2] * 6), (5, [6, 6]), (2, [6, 6]), (1, [6, 6])])
def test_layers_of_one_module_are_grouped_as_deep_as_may_be(most, sizes):
    groups = groups_of(LAYERS, most)
    assert [len(group) for group in groups] == sizes
    assert [one for group in groups for one in group] == LAYERS


def test_order_is_damage_for_the_work_saved():
    groups = [(layer("a", 10),), (layer("b", 1000),), (layer("c", 10),), (layer("d", 10),)]
    damage = [Damage(("a",), 30.0), Damage(("b",), 25.0), Damage(("c",), 40.0), Damage(("d",), None)]
    assert [group[0].name for group in in_order(groups, damage)] == ["a", "c", "b", "d"]


@pytest.mark.parametrize("needed", range(12))
def test_the_fewest_groups_that_meet_the_budget_are_found(needed):
    groups, asked = [(one,) for one in LAYERS], []

    def measure(chosen):
        asked.append(len(chosen))
        return 20.0 + (len(LAYERS) - len(chosen)) - needed

    assert fewest_float(groups, 20.0, measure, lambda line: None) == (needed, 20.0)
    assert len(asked) == len(set(asked)), "nothing is measured twice"


def test_what_is_chosen_meets_the_budget_even_where_damage_is_not_monotone():
    for seed in range(50):
        rng = random.Random(seed)
        reached = {count: 20 + count + rng.uniform(-3, 3) for count in range(1, 13)}
        reached[1] = 40.0  # one quantized layer always does

        def measure(chosen, reached=reached):
            return reached[len(chosen)]

        count, found = fewest_float([(one,) for one in LAYERS], 28.0, measure, lambda line: None)
        assert found == reached[12 - count] >= 28.0


def test_a_budget_that_nothing_meets_says_how_far_it_got_and_what_stands_in_the_way():
    with pytest.raises(FidelityError) as caught:
        fewest_float([(one,) for one in LAYERS], 99.0, lambda chosen: 50.0 - len(chosen), lambda line: None)
    assert "99 dB cannot be met: the best was 49.00 dB with 11 of 12 groups in float" in str(caught.value)
    assert "down.0.conv0" in str(caught.value) and "--budget" in str(caught.value)
