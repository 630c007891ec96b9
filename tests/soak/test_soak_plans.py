"""Every plan with both generations, interrupted at random; `make soak` runs it, SOAK_SECONDS says how long."""

import os
import random
import time

import bluesky.plan_stubs as bps
import pytest
from interruptions import PLANS, POINTS, pause_then
from lab import SPEC, Lab

from simulators import SimulatorProcess

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))
SEED = int(os.environ.get("SOAK_SEED", "1"))


def test_plans_interrupted_at_random_leave_the_bench_safe(tmp_path):
    chance = random.Random(SEED)
    end, done = time.monotonic() + SECONDS, 0
    with SimulatorProcess(SPEC) as simulators:
        lab = Lab(simulators, tmp_path)
        try:
            while time.monotonic() < end:
                name, how = chance.choice(list(PLANS)), chance.choice(["end", "abort", "failure"])
                generation = chance.choice(["v2", "v4"])
                first = chance.randint(1, POINTS - 4)
                points = (first, first + chance.randint(1, 2))
                told = f"{done}: {name} with {generation}, paused at {points[0]}, then {how} at {points[1]}"
                print(told, flush=True)
                lab.documents.clear()
                devices = lab.generations[generation]
                if not lab.shutter_is_open:
                    lab.RE(bps.mv(devices.laser.shutter, True))
                try:
                    pause_then(lab, devices, name, how, points)
                except BaseException as error:
                    error.add_note(told)
                    raise
                done += 1
        finally:
            lab.close()
    assert done > SECONDS / 20
