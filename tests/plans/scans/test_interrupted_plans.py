"""Every plan, paused and resumed and then ended at random points: the bench is safe and what was measured is stored."""

import random

import pytest
from interruptions import PLANS, pause_then


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_paused_resumed_and_ended_leaves_the_bench_safe(lab, devices, request, name):
    # One generation is aborted, the other has a device that fails; the longer random version does all with both.
    generation = request.node.callspec.params["devices"]
    how = "abort" if (list(PLANS).index(name) + (generation == "v4")) % 2 else "failure"
    chance = random.Random(f"{name} {generation}")
    first = chance.randint(1, 3)
    pause_then(lab, devices, name, how, (first, first + chance.randint(1, 2)))
