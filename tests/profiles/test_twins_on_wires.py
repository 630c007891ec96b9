"""Twins on the wires of one simulated bench: they measure the same, and shadows are in nobody's way."""

import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import maybe_await

from coexistence.arbiter import Arbiter
from coexistence.config import DualConfig
from coexistence.hold import Rank
from plans.shadow import shadowed
from profiles.bridge import UnifiedMeasurement
from profiles.session import Session

QUIET = {"simulation": {"relative_noise": 0.0, "range_noise": 0.0}}
INSTRUMENTS = {
    "power": {"type": "Newport1830C", "serial_port": "/dev/ttyUSB0", **QUIET},
    "rotator": {"type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3"},
    "stages": {"type": "ESP300", "serial_port": "/dev/ttyUSB2"},
    "laser": {"type": "MaiTai", "serial_port": "/dev/ttyUSB3", "simulation": {"emission": True, "shutter_open": True}},
    "voltmeter": {
        "type": "ScpiMeter",
        "resource": "TCPIP0::192.0.2.10::5025::SOCKET",
        "simulation": {"relative_noise": 0.0},
    },
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session with all instruments in both generations; what they measure has no noise."""
    config = DualConfig.from_mapping(
        {
            "application": {"baseline": False},
            "simulation": {"time_scale": 0.5},
            "v2": {"instruments": [{"id": name, **settings} for name, settings in INSTRUMENTS.items()]},
            "v4": {"instruments": [{"id": f"{name}_v4", **settings} for name, settings in INSTRUMENTS.items()]},
        }
    )
    with Session.open(config, simulate=True, data_dir=tmp_path_factory.mktemp("data"), strict=True) as session:
        yield session


def test_the_same_truth_is_the_same_measurement_whichever_generation_reads_it(session):
    devices = [session.devices[name] for each in INSTRUMENTS for name in (each, f"{each}_v4")]
    columns = {column for device in devices for column in session.RE(described(device)).plan_result}
    found = {}
    with session.measurements.bridge.subscribe() as subscription:
        uid = session.RE(bp.count(devices, 1)).run_start_uids[0]
        while columns - {item.column for item in found.values()}:
            item = subscription.get(timeout=20)
            assert isinstance(item, UnifiedMeasurement)
            found[item.generation, item.column.replace("_v4", "", 1)] = item
    assert {item.generation for item in found.values()} == {"v2", "v4"}
    for column in {column for _, column in found}:
        old, new = found["v2", column], found["v4", column]
        # The laser's own meters are noisy, in the simulator too.
        value = pytest.approx(new.value, rel=0.02) if old.instrument == "laser" else new.value
        assert old.value == value, column
        for name in ("signal", "units", "kind", "run", "stream"):
            assert getattr(old, name) == getattr(new, name), f"{name} of {column}"
        assert (new.instrument, old.run, old.stream) == (f"{old.instrument}_v4", uid, "primary")
        assert type(old.value) is type(new.value)


def described(device):
    """Describe a device of either generation, on the RunEngine's loop."""
    keys = {}

    async def ask():
        keys.update(await maybe_await(device.describe()))

    yield from bps.wait_for([ask])
    return keys


@pytest.mark.parametrize(("used", "beside"), [("power", "power_v4"), ("power_v4", "power")])
def test_no_reading_of_a_shadow_begins_while_a_request_of_somebody_else_waits(session, used, beside, monkeypatch):
    original, twin = session.devices[used], session.devices[beside]
    wire = original.connection.wire
    before = len(wire.log)
    ended = threading.Event()
    granted = []
    grant = Arbiter._grant

    def watched(arbiter, hold, now):
        if arbiter is wire.wire.arbiter:
            granted.append((hold.owner, {each.owner for each in arbiter._lines[Rank.NORMAL]} - {hold.owner}))
        grant(arbiter, hold, now)

    def ask(owner):
        while not ended.wait(0.03):
            wire.query(b"D?\n", owner=owner)

    monkeypatch.setattr(Arbiter, "_grant", watched)
    strangers = [threading.Thread(target=ask, args=(f"stranger {number}",)) for number in range(2)]
    for stranger in strangers:
        stranger.start()
    try:
        session.RE(shadowed(bp.count([original], 3, delay=0.4), [(original, twin)], budget=1.0))
    finally:
        ended.set()
        for stranger in strangers:
            stranger.join()
    readings = [entry for entry in list(wire.log)[before:] if entry.owner == beside and entry.sent == b"D?\n"]
    assert readings
    assert [owner for owner, _ in granted if owner.startswith("stranger")]
    # Who is given the wire at once overtakes nobody; who had to wait for it must have been the last to want it.
    assert [waiting for owner, waiting in granted if owner == beside and waiting] == []


def test_the_shadow_of_a_mover_reads_where_it_is_and_does_not_disturb_it(session):
    rotator, twin, power = session.devices.rotator, session.devices.rotator_v4, session.devices.power
    documents = []
    session.RE(
        shadowed(bp.scan([power], rotator, 0, 300, 6), [(rotator, twin)], budget=1.0),
        lambda name, document: documents.append((name, document)),
    )
    names = {document["uid"]: document for name, document in documents if name == "descriptor"}
    rows = [document for name, document in documents if name == "event"]
    primary = [row["data"] for row in rows if names[row["descriptor"]]["name"] == "primary"]
    shadow = [row["data"] for row in rows if names[row["descriptor"]]["name"] == "shadow"]
    np.testing.assert_allclose([row["rotator"] for row in primary], np.linspace(0, 300, 6), atol=0.05)
    assert documents[-1][1]["exit_status"] == "success"
    assert set(shadow[0]) == {f"rotator_v4{end}" for end in ("_original_before", "", "_original_after", "_again")}
    assert not [entry for entry in rotator.connection.wire.log if entry.owner == "rotator_v4" and b"ma" in entry.sent]
