"""Plans of the simulated lab, each with a shutter around it, and what has to be true however they end."""

import re
import time
from contextlib import contextmanager

import pytest
from asking import Asking
from bluesky import RunEngineInterrupted
from bluesky.utils import FailedStatus

from devices.power_calibration import PowerCalibration
from devices.protocols.errors import ProtocolError
from plans import (
    adaptive_scan,
    calibrate_half_wave_plate,
    delay_scan,
    grid_scan,
    image_scan,
    laser_safe,
    list_scan,
    malus,
    nd_scan,
    power_hold,
    rotational_anisotropy,
    time_series,
    tune,
    wavelength_scan,
)
from profiles.power import power_positioner

POINTS = 7
"""Of each plan; some have more."""

PLANS = {
    "malus": lambda lab, d: malus([d.meter], d.polarizer, 0, 90, POINTS),
    "calibrate_half_wave_plate": lambda lab, d: calibrate_half_wave_plate([d.meter], d.hwp, 0, 45, POINTS),
    "rotational_anisotropy": lambda lab, d: rotational_anisotropy(
        [d.meter], d.hwp, d.polarizer, 0, 90, POINTS, half_wave_plate=True
    ),
    "wavelength_scan": lambda lab, d: wavelength_scan([d.meter], d.laser, 790, 802, POINTS),
    "delay_scan": lambda lab, d: delay_scan([d.meter], d.stages.axis[1], -0.5, 0.5, POINTS, zero_mm=12.5),
    "image_scan": lambda lab, d: image_scan(d.camera, d.polarizer, 0, 60, POINTS, exposure_ms=2),
    "power_hold": lambda lab, d: power_hold(d.meter, _power(lab, d), 3e-4, 6.0, period_s=0.03),
    "time_series": lambda lab, d: time_series([d.meter], POINTS, 0.01),
    "adaptive_scan": lambda lab, d: adaptive_scan([d.meter], d.polarizer, 0, 90, 1, 10, 1e-4),
    "tune": lambda lab, d: tune([d.meter], d.stages.axis[1], 12.3, 12.7, POINTS, passes=1),
    "grid_scan": lambda lab, d: grid_scan([d.meter], [(d.hwp, 0, 10, 2), (d.polarizer, 0, 30, 4)]),
    "list_scan": lambda lab, d: list_scan([d.meter], [(d.polarizer, [0, 40, 10, 30, 20, 50, 60])]),
    "nd_scan": lambda lab, d: nd_scan([d.meter], [(d.hwp, 0, 10), (d.polarizer, 0, 30)], POINTS),
}


def _power(lab, devices):
    """Return the plate as a positioner of power, for where the polarizer stands."""
    best = (lab.truth["optics"]["polarizer"] - 12.7) / 2
    return power_positioner(devices.hwp, PowerCalibration(angle_deg=best, amplitude=9e-4, offset=2e-6))


def wire_that_fails(name):
    """Return wire and fault that make the plan's detector fail; for images it is what moves."""
    return ("bus.3", "limit") if name == "image_scan" else ("meter", "saturation")


@contextmanager
def acting(lab, requests, faults):
    """Ask things of the engine, or have things go wrong, each when the run has so many points: by number of points.

    Returns the requests.
    """
    primary, seen, asking = set(), set(), Asking(len(requests))

    def look(name, document):
        if name == "descriptor" and document["name"] == "primary":
            primary.add(document["uid"])
        elif name == "event" and document["descriptor"] in primary and document["seq_num"] not in seen:
            seen.add(document["seq_num"])
            if fail := faults.get(len(seen)):
                fail()
            if request := requests.get(len(seen)):
                asking.ask(request)

    token = lab.RE.subscribe(look)
    try:
        yield asking
    finally:
        lab.RE.unsubscribe(token)
        asking.join()


def places(lab):
    """Return where everything that moves really is, and whether an axis still does."""
    axes = lab.simulators.truth()["instruments"]["stage"]["axes"]
    return lab.truth["optics"], {number: (axis["counter"], axis["moving"]) for number, axis in axes.items()}


def assert_safe(lab):
    """Expect a closed shutter, and that all that moves comes to rest."""
    assert not lab.shutter_is_open
    deadline = time.monotonic() + 10
    before = places(lab)
    while True:
        time.sleep(0.02)
        now = places(lab)
        if now == before and not any(moving for _, moving in now[1].values()):
            return
        assert time.monotonic() < deadline, "something goes on moving"
        before = now


def assert_stored(lab, status, at_least):
    """Expect a closed run that has each of its points once, without a gap."""
    starts = [document for name, document in lab.documents if name == "start"]
    stops = [document for name, document in lab.documents if name == "stop"]
    assert (len(starts), len(stops)) == (1, 1)
    assert stops[0]["exit_status"] == status, stops[0]
    descriptors = {d["uid"]: d["name"] for name, d in lab.documents if name == "descriptor"}
    numbers = [
        d["seq_num"] for name, d in lab.documents if name == "event" and descriptors[d["descriptor"]] == "primary"
    ]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))
    assert len(set(numbers)) >= at_least
    assert stops[0]["num_events"]["primary"] == len(set(numbers))
    assert all(name == "primary" or name.startswith("result_") for name in descriptors.values())


def pause_then(lab, devices, name, how, points):
    """Pause a plan at the first number of points, resume it, and at the second end it: abort, failure or nothing."""
    wire, fault = wire_that_fails(name)
    requests, faults = {points[0]: lab.RE.request_pause}, {}
    if how == "abort":
        requests[points[1]] = lab.RE.abort
    elif how == "failure":
        faults[points[1]] = lambda: lab.simulators.fault(wire, fault, count=None)
    with acting(lab, requests, faults) as asking:
        plan = laser_safe(asking.awaited(PLANS[name](lab, devices)), devices.laser)
        with pytest.raises(RunEngineInterrupted):
            lab.RE(plan)
        assert lab.RE.state == "paused"
        assert_safe(lab)
        if how == "end":
            assert lab.RE.resume().exit_status == "success"
        elif how == "abort":
            with pytest.raises(RunEngineInterrupted):
                lab.RE.resume()
        else:
            with pytest.raises((FailedStatus, ProtocolError)) as caught:
                lab.RE.resume()
            assert re.search("saturated|out of range", f"{caught.value} {caught.value.__cause__}", re.IGNORECASE)
    lab.simulators.clear_faults()
    assert_safe(lab)
    assert_stored(lab, {"end": "success", "abort": "abort", "failure": "fail"}[how], points[-1])
