"""Any blocking driver object as a device."""

import re
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.magics import BlueskyMagics
from bluesky.utils import FailedStatus
from documents import events
from IPython.core.interactiveshell import InteractiveShell
from machine import TimeTaken
from ophyd.utils.errors import LimitError

from devices.errors import MoveStopped
from devices.protocols.errors import InstrumentFault, NotOnTarget
from devices.v2 import DriverHung, DriverSignal, NotMeasured, wrap


class Spectrometer:
    """A driver as others write it: properties, getters, setters, not safe to use from several threads."""

    def __init__(self):
        self._exposure = 0.1
        self.gain = 1
        self.users = 0
        self.threads = set()
        self.delay = 0.0
        self.broken = False

    def _work(self):
        self.users += 1
        assert self.users == 1, "two threads at once"
        self.threads.add(threading.current_thread())
        time.sleep(self.delay)
        self.users -= 1
        if self.broken:
            raise OSError("lamp is off")

    @property
    def temperature(self):
        self._work()
        return np.float32(21.5)

    def get_spectrum(self):
        self._work()
        return np.arange(4, dtype=float)

    @property
    def exposure(self):
        self._work()
        return self._exposure

    @exposure.setter
    def exposure(self, value):
        self._work()
        self._exposure = value

    def get_mode(self):
        return "fast"


class Stage:
    """A driver that moves: returns from move_to at once, tells whether it moves."""

    def __init__(self, speed=100.0):
        self.speed = speed
        self._from, self._to, self._started = 0.0, 0.0, 0.0
        self.stopped = 0
        self.error = 0.0
        self.thread = None

    def move_to(self, position):
        self.thread = threading.current_thread()
        self._from, self._to, self._started = self.position, position, time.monotonic()

    @property
    def position(self):
        distance = self._to - self._from
        done = min(1.0, (time.monotonic() - self._started) * self.speed / abs(distance)) if distance else 1.0
        return self._from + distance * done + (self.error if done == 1.0 else 0.0)

    def is_moving(self):
        return abs(self.position - self.error - self._to) > 1e-9

    def stop(self):
        self.stopped += 1
        self._to = self._from = self.position


@pytest.fixture
def driver():
    return Spectrometer()


@pytest.fixture
def spectrometer(driver):
    return wrap(
        driver,
        name="spectrometer",
        read={"spectrum": "get_spectrum", "temperature": DriverSignal("temperature", units="degC", precision=1)},
        config={"exposure": "exposure", "mode": "get_mode", "double": lambda d: 2 * d.gain},
    )


@pytest.fixture
def stage():
    return wrap(
        Stage(),
        name="stage",
        position="position",
        move="move_to",
        moving="is_moving",
        stop="stop",
        units="mm",
        limits=(-50, 50),
        tolerance=0.01,
        poll_period_s=0.01,
    )


def test_wrapped_driver_is_measured_off_the_loop(engine, documents, driver, spectrometer, keeps_loop_alive):
    driver.delay = 0.1
    keeps_loop_alive(lambda: engine(bp.count([spectrometer], num=3)))
    assert len(events(documents)) % 3 == 0
    loop_thread = next(t for t in threading.enumerate() if t.name == "bluesky-run-engine")
    assert loop_thread not in driver.threads
    descriptor = next(document for name, document in documents if name == "descriptor")
    key = descriptor["data_keys"]["spectrometer_spectrum"]
    assert (key["dtype"], key["shape"], key["dtype_numpy"]) == ("array", [4], "<f8")
    assert key["source"] == "driver:Spectrometer.get_spectrum"
    assert descriptor["data_keys"]["spectrometer_temperature"]["units"] == "degC"
    assert descriptor["hints"]["spectrometer"]["fields"] == ["spectrometer_spectrum"]
    settings = descriptor["configuration"]["spectrometer"]["data"]
    assert settings == {"spectrometer_exposure": 0.1, "spectrometer_mode": "fast", "spectrometer_double": 2}


def test_results_are_the_same_as_those_of_the_driver_itself(driver, spectrometer):
    before = driver.temperature, driver.exposure
    spectrometer.connect()
    spectrometer.trigger().wait(5)
    assert spectrometer.read()["spectrometer_temperature"]["value"] == before[0]
    spectrometer.exposure.set(0.3).wait(5)
    assert driver.exposure == 0.3
    assert spectrometer.read_configuration()["spectrometer_exposure"]["value"] == 0.3
    assert (driver.temperature, driver.exposure) == (before[0], 0.3)


def test_timestamp_is_that_of_the_measurement(driver, spectrometer):
    spectrometer.connect()
    spectrometer.trigger().wait(5)
    timestamp = spectrometer.read()["spectrometer_temperature"]["timestamp"]
    time.sleep(0.05)
    assert spectrometer.read()["spectrometer_temperature"]["timestamp"] == timestamp


def test_driver_that_is_not_safe_for_threads_is_used_by_one_at_a_time(driver, spectrometer):
    driver.delay = 0.02
    waiting = [spectrometer.trigger(), spectrometer.exposure.set(0.2), spectrometer.stage(), spectrometer.trigger()]
    for status in waiting:
        status.wait(5)


def test_driver_error_fails_the_plan_and_leaves_no_value(engine, driver, spectrometer):
    driver.broken = True
    with pytest.raises(FailedStatus) as caught:
        engine(bp.count([spectrometer]))
    assert str(caught.value.__cause__) == "lamp is off"
    with pytest.raises(NotMeasured, match="spectrometer_spectrum has no measured value"):
        spectrometer.read()
    driver.broken = False
    engine(bp.count([spectrometer]))


def test_what_an_instrument_says_to_a_call_that_was_given_up_is_logged(driver, caplog, wait_for):
    device = wrap(driver, name="slow", read=["temperature"])
    go_on = threading.Event()

    def work() -> None:
        go_on.wait()
        raise InstrumentFault(7, "parameter out of range", instrument="thermometer")

    status = device.do(work, "setting slow", timeout=0.1)
    with pytest.raises(DriverHung):
        status.wait(20)
    go_on.set()
    wait_for(lambda: "error 7: parameter out of range. Nobody waited for the end of this any more." in caplog.text)


def test_hung_driver_fails_in_time_with_its_name(driver, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(driver, "_work", go_on.wait)
    device = wrap(driver, name="hung", read=["temperature"], timeout_s=0.1)
    with pytest.raises(DriverHung, match=r"hung: measuring hung has not returned within 0.1 s") as caught:
        device.trigger().wait(5)
    go_on.set()
    assert caught.value.device == "hung"


def test_read_only_signal_says_so(spectrometer):
    spectrometer.connect()
    with pytest.raises(AttributeError, match="spectrometer_double can only be read"):
        spectrometer.double.set(3).wait(5)


def test_value_that_cannot_be_recorded_is_refused():
    driver = type("Odd", (), {"thing": object()})()
    device = wrap(driver, name="odd", read=["thing"])
    device.trigger().wait(5)
    with pytest.raises(TypeError, match=r"object \(driver:Odd.thing\) cannot be recorded"):
        device.describe()


def test_name_declared_twice_is_refused(driver):
    with pytest.raises(ValueError, match="'temperature' is declared twice"):
        wrap(driver, name="x", read=["temperature"], config=["temperature"])
    with pytest.raises(ValueError, match="need position"):
        wrap(driver, name="x", move="move_to")
    with pytest.raises(ValueError, match="position needs move"):
        wrap(driver, name="x", position="temperature")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"read": ["temperatur"]}, "x: Spectrometer has no 'temperatur'; did you mean 'temperature'?"),
        ({"read": {"t": DriverSignal()}}, "x: Spectrometer has no 't'."),
        ({"position": "temperature", "move": "mvoe"}, "x: Spectrometer has no 'mvoe'."),
    ],
)
def test_name_that_the_driver_does_not_have_is_refused(driver, declared, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        wrap(driver, name="x", **declared)
    assert not hasattr(driver, "mvoe")


def test_wrapped_stage_moves_and_scans(engine, documents, stage, keeps_loop_alive):
    keeps_loop_alive(lambda: engine(bp.scan([], stage, 0, 10, 3)))
    assert [event["data"]["stage"] for event in events(documents)][-3:] == pytest.approx([0, 5, 10], abs=0.01)
    assert stage.position == pytest.approx(10)
    assert stage.driver.thread.name == "stage motion (v2)"


def test_limits_are_those_of_the_wrapping(engine, stage):
    with pytest.raises((LimitError, FailedStatus)):
        engine(bps.mv(stage, 51))
    with pytest.raises(LimitError, match="position cannot be 51: allowed is -50 to 50 mm"):
        stage.check_value(51)
    for wrong in (float("nan"), "far", None):
        with pytest.raises(LimitError):
            stage.check_value(wrong)


def test_stop_returns_at_once_and_may_be_called_again(stage, wait_for):
    stage.driver.speed = 10.0
    status = stage.set(50)
    wait_for(lambda: stage.position is not None and stage.position > 1)
    with TimeTaken() as taken:
        for _ in range(3):
            stage.stop(success=True)
    assert taken.own_s < 1.0
    status.wait(5)
    assert stage.driver.stopped == 1
    assert 1 < stage.position < 49
    stage.stop(success=True)
    assert stage.driver.stopped == 1


def test_stopped_move_fails_with_the_reason(stage, wait_for):
    stage.driver.speed = 10.0
    status = stage.set(50)
    wait_for(lambda: stage.moving)
    stage.stop()
    with pytest.raises(MoveStopped, match="stage: the motion to 50 was ended: it was stopped"):
        status.wait(5)


def test_move_that_takes_too_long_is_stopped(stage, wait_for):
    stage.driver.speed = 1.0
    status = stage.move(50, timeout=0.1)
    with pytest.raises(TimeoutError):
        status.wait(5)
    wait_for(lambda: stage.driver.stopped == 1)
    wait_for(lambda: not stage.moving)


def test_stage_that_ends_elsewhere_fails(stage):
    stage.driver.error = 0.5
    with pytest.raises(NotOnTarget, match=r"the motion to 10 mm ended at 10\.5 mm"):
        stage.set(10).wait(5)


def test_position_is_in_the_table_of_where_all(stage):
    stage.connect()
    assert stage._ophyd_labels_ == {"motors"}
    assert stage.position == 0.0
    assert stage.hints == {"fields": ["stage"]}
    assert (stage.egu, stage.precision, stage.limits) == ("mm", 3, (-50, 50))


def test_move_waits_when_asked_to(stage):
    ended = []
    stage.move(5, wait=True, moved_cb=lambda _, *, obj: ended.append(obj))
    assert stage.position == pytest.approx(5)
    assert ended == [stage]


def test_magics_of_the_prompt_move_and_list_it(engine, stage, capsys):
    shell = InteractiveShell()
    shell.register_magics(BlueskyMagics)
    shell.user_ns["RE"] = engine
    shell.user_ns["stage"] = stage
    stage.connect()
    shell.run_line_magic("mov", "stage 7")
    assert stage.position == pytest.approx(7)
    capsys.readouterr()
    shell.run_line_magic("wa", "motors")
    assert "stage" in (table := capsys.readouterr().out)
    assert "7.0" in table
    shell.history_manager.end_session()
