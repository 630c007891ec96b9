"""The simulated lab, and devices that are software only."""

from collections.abc import Iterator
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from lab import SPEC, Lab

from simulators import SimulatorProcess


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with SimulatorProcess(SPEC) as simulators:
        lab = Lab(simulators, tmp_path_factory.mktemp("frames"))
        yield lab
        lab.close()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The lab, at rest, with the shutter open and without faults; its documents begin anew."""
    if not shared_lab.shutter_is_open:
        shared_lab.RE(bps.mv(shared_lab.generations["v4"].laser.shutter, True))
    shared_lab.light = shared_lab.truth
    shared_lab.documents.clear()
    yield shared_lab
    shared_lab.simulators.clear_faults()


@pytest.fixture(params=["v2", "v4"])
def devices(request: pytest.FixtureRequest, lab: Lab) -> SimpleNamespace:
    """Return the lab's devices of one generation."""
    return lab.generations[request.param]


@pytest.fixture
def engine() -> RunEngine:
    return RunEngine({}, context_managers=[], call_returns_result=True)
