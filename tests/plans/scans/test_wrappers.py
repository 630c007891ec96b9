"""Wrappers: what trips while things move, and all of them around each other in every order."""

import asyncio
import threading
import time
from itertools import permutations

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngineInterrupted
from bluesky.run_engine import call_in_bluesky_event_loop
from ophyd import Signal
from ophyd.sim import SynAxis, SynSignal
from ophyd.status import MoveStatus
from ophyd_async.core import soft_signal_rw
from ophyd_async.sim import SimMotor

from plans import LimitExceeded, laser_safe, normalised, with_dark
from plans.shadow import ShadowPair, shadowed


class Runaway(SynAxis):
    """An ophyd axis that overshoots: it moves until it is stopped, and tells where it is."""

    def __init__(self, name, speed=50.0):
        super().__init__(name=name)
        self._speed = speed
        self._halt = threading.Event()
        self.stopped_at = None

    def set(self, value):
        status = MoveStatus(self, value, done=False)
        self._halt.clear()

        def go():
            began, place = time.monotonic(), 0.0
            while not self._halt.wait(0.005) and place < 1000:
                place = (time.monotonic() - began) * self._speed
                self._run_subs(sub_type=self.SUB_READBACK, value=place, timestamp=time.time())
            self.stopped_at = place
            status.set_finished()

        threading.Thread(target=go, daemon=True).start()
        return status

    def stop(self, *, success=False):
        self._halt.set()


def closing_times(shutter):
    """Return a list that gets the time whenever the shutter closes."""
    times = []
    shutter.subscribe(lambda *, value, **_: times.append(time.monotonic()) if value is False else None, run=False)
    return times


def test_a_position_that_leaves_its_limits_during_a_move_closes_the_shutter_and_stops_the_movers(engine):
    shutter, stage = Signal(name="shutter", value=False), Runaway("stage")
    watched, documents = Runaway("watched"), []

    def plan():
        yield from bps.open_run()
        yield from bps.abs_set(watched, 4, group="moves")
        # Both targets are inside of the limits: only what is told on the way can trip.
        yield from bps.abs_set(stage, 5, group="moves")
        yield from bps.wait("moves")
        yield from bps.close_run()

    limits = [(stage, -1, 10), (watched, -1, 900)]
    with pytest.raises(LimitExceeded, match=r"stage is .*, allowed is -1 to 10\. The shutter was closed\.") as caught:
        engine(laser_safe(plan(), shutter, positions=limits), lambda *document: documents.append(document))
    assert 10 < caught.value.value < 500
    assert shutter.get() is False
    assert 10 < stage.stopped_at < 900
    assert 0 < watched.stopped_at < 900, "what is watched is stopped too, though it was inside of its limits"
    assert documents[-1][1]["exit_status"] == "fail"


def test_an_ophyd_async_mover_trips_by_its_readback_and_is_stopped(engine):
    shutter, motor = Signal(name="shutter", value=False), SimMotor(name="motor", instant=False)
    call_in_bluesky_event_loop(motor.connect())
    engine(bps.mv(motor.velocity, 20.0))
    closed, told = closing_times(shutter), []

    def move_past_the_limit():
        yield from bps.open_run()
        # By another way than a checked `set` of the mover: somebody's hand, a script, a joystick.
        yield from bps.wait_for([lambda: _moved(motor, told)])
        yield from bps.close_run()

    with pytest.raises(LimitExceeded, match="motor"):
        engine(laser_safe(move_past_the_limit(), shutter, positions=[(motor, -1, 2)]))
    assert closed
    assert shutter.get() is False
    assert told == ["stopped"]
    place = call_in_bluesky_event_loop(motor.user_readback.get_value())
    assert 2 < place < 40


async def _moved(motor, told):
    status = motor.set(60.0)
    while not status.done:
        await asyncio.sleep(0.005)
    told.append("stopped" if not status.success else "arrived")


def test_power_of_an_ophyd_async_signal_trips_between_its_readings(engine):
    shutter, power = Signal(name="shutter", value=False), soft_signal_rw(float, 1.0, name="power")
    call_in_bluesky_event_loop(power.connect())

    def plan():
        yield from bps.open_run()
        yield from bps.wait_for([lambda: power.set(5.0)])
        yield from bps.sleep(5.0)
        yield from bps.close_run()

    with pytest.raises(LimitExceeded, match="power is 5, allowed is any to 2"):
        engine(laser_safe(plan(), shutter, power=power, max_power=2.0))
    assert shutter.get() is False


WRAPPERS = ("laser_safe", "with_dark", "normalised", "shadowed")


class Bench:
    """Software devices: a signal and a monitor that are dark when the shutter is closed, and their twin."""

    def __init__(self, engine):
        self.engine, self.documents = engine, []
        self.shutter = Signal(name="shutter", value=False)
        self.motor = SynAxis(name="motor")
        self.signal = SynSignal(name="signal", func=lambda: 0.5 + (3.0 + self.motor.position) * self.shutter.get())
        self.monitor = SynSignal(name="monitor", func=lambda: 0.25 + 2.0 * self.shutter.get())
        self.twin = SynSignal(name="signal_twin", func=lambda: self.signal.get())
        engine.subscribe(lambda *document: self.documents.append(document))

    def wrapped(self, order, plan):
        """Put wrappers around a plan, the first of them innermost."""
        for name in order:
            if name == "laser_safe":
                plan = laser_safe(plan, self.shutter, positions=[(self.motor, -1, 10)])
            elif name == "with_dark":
                plan = with_dark(plan, self.shutter, [self.signal, self.monitor], num=2)
            elif name == "normalised":
                plan = normalised(plan, "signal", "monitor")
            else:
                plan = shadowed(plan, [ShadowPair(self.signal, self.twin)], budget=1)
        return plan

    def rows(self, stream):
        descriptors = {d["uid"] for name, d in self.documents if name == "descriptor" and d["name"] == stream}
        return {
            d["seq_num"]: d["data"] for name, d in self.documents if name == "event" and d["descriptor"] in descriptors
        }

    def check(self, order, points):
        start, stop = self.documents[0][1], self.documents[-1][1]
        assert [wrapper["wrapper"] for wrapper in start["wrappers"]] == [n for n in reversed(order) if n != "shadowed"]
        assert start["shadow"] == {"signal_twin": "signal"}
        assert self.shutter.get() is False
        primary, ratios, dark = self.rows("primary"), self.rows("normalised"), self.rows("dark")
        assert len(primary) >= points
        assert len(dark) == 2
        assert all(row["signal"] == 0.5 for row in dark.values())
        for number, row in primary.items():
            assert row["signal"] == 3.5 + row["motor"], "measured in the light"
            if number in ratios:
                assert ratios[number]["signal_normalised"] == pytest.approx((3.0 + row["motor"]) / 2.0)
        assert len(primary) - len(ratios) in (0, 1)
        return stop["exit_status"]


@pytest.mark.parametrize("order", list(permutations(WRAPPERS)), ids="-".join)
def test_wrappers_nest_in_any_order_through_a_pause_and_a_failure(engine, order):
    bench = Bench(engine)

    def scan(act):
        for message in bp.scan([bench.signal, bench.monitor], bench.motor, 0, 4, 5):
            yield message
            if message.command == "save" and len(bench.rows("primary")) == 3:
                yield from act()

    def fail():
        yield from bps.null()
        raise RuntimeError("something broke")

    with pytest.raises(RunEngineInterrupted):
        engine(bench.wrapped(order, scan(bps.pause)))
    assert bench.shutter.get() is False
    assert engine.resume().exit_status == "success"
    assert bench.check(order, 5) == "success"
    bench.documents.clear()
    with pytest.raises(RuntimeError, match="something broke"):
        engine(bench.wrapped(order, scan(fail)))
    assert bench.check(order, 3) == "fail"
