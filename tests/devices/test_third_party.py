"""Drivers and helpers that others wrote: a pymeasure driver as a device, settings kept with ophyd-async's own."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from documents import events
from ophyd_async.core import YamlSettingsProvider
from ophyd_async.plan_stubs import apply_settings, apply_settings_if_different, retrieve_settings, store_settings
from pymeasure.adapters import SerialAdapter
from pymeasure.instruments.newport import ESP300

import devices.v4
from devices.v2 import DriverSignal, wrap


@pytest.fixture
def controller(bench):
    adapter = SerialAdapter(
        bench.ports["stage"], baudrate=19200, timeout=5, write_termination="\r", read_termination="\r\n"
    )
    yield ESP300(adapter)
    adapter.close()


def test_pymeasure_axis_moves_in_a_scan(bench, engine, documents, controller, keeps_loop_alive):
    axis = wrap(
        controller.x,
        name="x",
        position="position",
        move="position",
        moving=lambda driver: not driver.motion_done,
        stop=None,
        config={"left": DriverSignal("left_limit", units="mm"), "right": DriverSignal("right_limit", units="mm")},
        units="mm",
        limits=(0, 50),
        tolerance=0.01,
    )
    axis.connect()
    keeps_loop_alive(lambda: engine(bp.scan([], axis, 0, 1, 3)))
    assert [event["data"]["x"] for event in events(documents)][-3:] == pytest.approx([0, 0.5, 1], abs=0.01)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["configuration"]["x"]["data"] == {"x_left": 0.0, "x_right": 50.0}
    assert controller.x.position == pytest.approx(1, abs=0.01)
    engine(bps.mv(axis, 0))


def test_settings_are_saved_and_restored(engine, connection, tmp_path):
    meter = devices.v4.Newport1830C(connection("meter", "power"), name="power")
    call_in_bluesky_event_loop(meter.connect())
    provider = YamlSettingsProvider(tmp_path)

    def change_and_restore():
        yield from bps.mv(meter.wavelength, 633, meter.filter, 16)
        yield from store_settings(provider, "meter", meter, only_config=True)
        yield from bps.mv(meter.wavelength, 800, meter.filter, 1)
        settings = yield from retrieve_settings(provider, "meter", meter, only_config=True)
        yield from apply_settings_if_different(settings, apply_settings)

    engine(change_and_restore())
    assert call_in_bluesky_event_loop(meter.wavelength.get_value()) == 633
    assert call_in_bluesky_event_loop(meter.filter.get_value()) == 16
    engine(bps.mv(meter.wavelength, 800, meter.filter, 1))
