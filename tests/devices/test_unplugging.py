"""An instrument switched off in mid-motion: told by name, its neighbour usable, over when it is on again."""

import bluesky.plan_stubs as bps
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from waiting import until

from devices import registry


@pytest.fixture(params=["v2", "v4"])
def make(request, connection, engine):
    """Make a connected device of a generation."""

    def make_device(type_name, wire, name, **options):
        device = registry.device_class(type_name, request.param)(connection(wire, name), name=name, **options)
        if request.param == "v2":
            device.connect()
        else:
            call_in_bluesky_event_loop(device.connect())
        return device

    return make_device


def truth(bench, name):
    return bench.truth()["instruments"][name]


def test_power_lost_during_a_motion(bench, engine, make, hurry):
    bench.set("bus.3", position_deg=0.0)
    rotator = make("Elliptec", "bus", "rotator", address="3", move_timeout=20.0)
    neighbour = make("Elliptec", "bus", "neighbour", address="A")
    engine(bps.mv(rotator.velocity, 2))

    def plan():
        yield from bps.abs_set(rotator, 90, group="move")
        yield from until(lambda: truth(bench, "bus.3")["position_deg"] > 1)
        bench.power("bus.3", False)
        hurry()
        yield from bps.wait("move")

    try:
        with pytest.raises(FailedStatus) as caught:
            engine(plan())
        assert "rotator" in str(caught.value.__cause__)
    finally:
        bench.power("bus.3", True)
    hurry(5.0)
    engine(bps.mv(neighbour, 5))
    engine(bps.mv(rotator.velocity, 100))
    engine(bps.mv(rotator, 10))
    assert truth(bench, "bus.3")["position_deg"] == pytest.approx(10, abs=0.1)
