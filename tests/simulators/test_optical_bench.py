"""The optical bench and the motion of what stands on it."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from simulators import SimulatorProcess, SpecError, default_instrument, default_wire, motion
from simulators.optics import OpticalBench

angles = st.floats(-720, 720)


def turn(bench: OpticalBench, optic: str, position_deg: float) -> None:
    bench.bind_rotator(optic, lambda: position_deg)


@given(position_deg=angles, plate_deg=angles, offset_deg=st.floats(-180, 180), extinction=st.floats(2, 1e6))
def test_polarizer_obeys_malus(position_deg: float, plate_deg: float, offset_deg: float, extinction: float) -> None:
    bench = OpticalBench(
        optics=[
            {"name": "plate", "kind": "half_wave_plate"},
            {
                "name": "polarizer",
                "kind": "polarizer",
                "angle_offset_deg": offset_deg,
                "extinction": extinction,
                "transmission": 0.9,
            },
        ],
        ambient_w=1e-6,
    )
    turn(bench, "plate", plate_deg)
    turn(bench, "polarizer", position_deg)
    truth = bench.truth()
    apart = truth["angle_deg"] - (offset_deg + 2 * plate_deg)
    assert (apart + 90) % 180 - 90 == pytest.approx(0, abs=1e-6)
    assert 0 <= truth["angle_deg"] < 180
    cosine = math.cos(math.radians(position_deg - truth["angle_deg"]))
    assert truth["power_w"] == pytest.approx(truth["amplitude_w"] * cosine**2 + truth["offset_w"], abs=1e-12)
    assert truth["offset_w"] == pytest.approx(1.06e-3 * 0.9 / extinction + 1e-6, abs=1e-12)
    assert truth["power_w"] == pytest.approx(bench.power())


def test_optics_without_rotator_stand_still_and_wrong_names_are_refused() -> None:
    bench = OpticalBench()
    assert bench.truth()["optics"] == {"half_wave_plate": 0.0, "polarizer": 0.0}
    with pytest.raises(SpecError, match="no optic 'polariser'; did you mean 'polarizer'"):
        bench.bind_rotator("polariser", float)
    with pytest.raises(SpecError, match="unknown optic 'polariser'"):
        OpticalBench(optics=[{"name": "p", "kind": "polariser"}])
    with pytest.raises(SpecError, match="must exceed 1"):
        OpticalBench(optics=[{"name": "p", "kind": "polarizer", "extinction": 1}])


speeds = st.floats(0.1, 50)
places = st.floats(-100, 100)


@given(start=places, target=places, speed=speeds, up=st.floats(0.5, 100), down=st.floats(0.5, 100), v=places)
def test_motion_is_smooth_within_its_limits_and_arrives(
    start: float, target: float, speed: float, up: float, down: float, v: float
) -> None:
    velocity = max(-speed, min(speed, v))
    profile = motion.move(10.0, start, target, speed=speed, acceleration=up, deceleration=down, velocity=velocity)
    assert profile.position(10.0) == pytest.approx(start)
    assert profile.position(profile.ends) == target
    assert profile.velocity(profile.ends) == 0.0
    times = [10.0 + (profile.ends - 10.0) * step / 200 for step in range(201)]
    for before, after in itertools.pairwise(times):
        assert abs(profile.velocity(after)) <= speed * (1 + 1e-6)
        step = after - before
        jump = abs(profile.velocity(after) - profile.velocity(before))
        assert jump <= max(up, down) * step + 1e-4 * (1 + speed)
        assert abs(profile.position(after) - profile.position(before)) <= speed * step * (1 + 1e-6) + 1e-6


def test_motion_finds_when_it_passes_a_place() -> None:
    profile = motion.move(0.0, 0.0, 8.0, speed=4.0, acceleration=16.0)
    assert profile.reaches(0.5) == pytest.approx(0.25)
    assert profile.reaches(4.5) == pytest.approx(1.25)
    assert profile.reaches(8.0) == pytest.approx(profile.ends)
    assert profile.reaches(8.1) == math.inf
    assert motion.stand(3.0).position(99.0) == 3.0
    assert not motion.stand(3.0).moving(0.0)


def test_a_scan_through_the_ports_finds_the_true_angle(
    simulate: Callable[..., SimulatorProcess], open_port: Callable[..., serial.Serial]
) -> None:
    simulators = simulate(
        default_wire("meter", [default_instrument("Newport1830C")]),
        default_wire("bus", [default_instrument("ELL14", address="2")]),
        seed=11,
        time_scale=0.1,
    )
    meter, bus = open_port(simulators.ports["meter"]), open_port(simulators.ports["bus"])
    turned, powers = [], []
    for step in range(37):
        bus.write(b"2ma%08X" % round(step * 5 * 143360 / 360))
        pulses = int.from_bytes(bytes.fromhex(bus.readline()[3:11].decode()), signed=True)
        turned.append(math.radians(pulses * 360 / 143360))
        meter.write(b"D?\n")
        powers.append(float(meter.readline()))
    doubled = 2 * np.array(turned)
    terms = np.stack([np.ones(37), np.cos(doubled), np.sin(doubled)], axis=1)
    (mean, cosine, sine), *_ = np.linalg.lstsq(terms, np.array(powers))
    truth = simulators.truth()["bench"]
    assert math.degrees(math.atan2(sine, cosine)) / 2 == pytest.approx(truth["angle_deg"], abs=0.1)
    assert 2 * math.hypot(cosine, sine) == pytest.approx(truth["amplitude_w"], rel=2e-3)
    assert mean - math.hypot(cosine, sine) == pytest.approx(truth["offset_w"], abs=1e-6)
