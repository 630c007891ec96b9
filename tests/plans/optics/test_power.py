"""A calibrated half-wave plate as a positioner of power, and holding a power with it."""

from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
import xarray
from bluesky.utils import FailedStatus

from devices.power_calibration import CalibrationUnusable, PowerCalibration
from devices.protocols.errors import ValueRefused
from plans.checks import PlanArgumentError
from plans.optics import PowerOutOfReach, calibrate_half_wave_plate, power_hold
from profiles.power import calibration_from_run, power_positioner

POLARIZER = 12.7
columns = {}


@pytest.fixture
def power(bench, row):
    """Return a power positioner that was calibrated on the bench."""
    bench.RE(bps.mv(bench.polarizer, POLARIZER))
    result = bench.RE(calibrate_half_wave_plate([bench.meter], bench.hwp, 0, 90, 16))
    calibration = PowerCalibration.from_result(row(bench, "half_wave_plate"), result.run_start_uids[0])
    return power_positioner(bench.hwp, calibration)


def test_a_power_that_is_set_is_the_power_on_the_bench(bench, power, tmp_path):
    path = tmp_path / "hwp.json"
    power.scale.calibration.save(path)
    fraction = power_positioner(bench.hwp, str(path), name="share", units="fraction")
    largest = power.scale.calibration.largest
    for share in (0.2, 0.5, 0.9):
        bench.RE(bps.mv(power, share * largest))
        true_w = bench.truth["bench"]["power_w"]
        assert true_w == pytest.approx(share * largest, abs=0.005 * largest)
    bench.RE(bps.mv(fraction, 0.35))
    assert bench.truth["bench"]["power_w"] == pytest.approx(0.35 * largest, abs=0.005 * largest)


def test_columns_limits_and_readback_are_those_of_both_generations(bench, power):
    from bluesky.plans import count

    bench.RE(bps.mv(power, 0.4 * power.limits[1]))
    bench.RE(count([power], 1))
    descriptor = [d for name, d in bench.documents if name == "descriptor"][-1]
    event = bench.events()[0]
    assert event["beam_power"] == pytest.approx(0.4 * power.limits[1], rel=0.01)
    assert event["beam_power_rotator"] == pytest.approx(bench.truth["bench"]["optics"]["half_wave_plate"], abs=0.01)
    assert descriptor["configuration"]["beam_power"]["data"]["beam_power_calibration_run"]
    shape = {
        name: {field: key.get(field) for field in ("units", "dtype", "shape", "precision", "dtype_numpy", "source")}
        for name, key in descriptor["data_keys"].items()
    }
    assert shape["beam_power"]["units"] == "W"
    seen = (shape, descriptor["hints"], sorted(descriptor["configuration"]["beam_power"]["data"]))
    assert columns.setdefault("first", seen) == seen


def test_a_power_beyond_the_limits_is_refused_before_anything_moves(bench, power):
    before = bench.truth["bench"]["optics"]["half_wave_plate"]
    with pytest.raises((ValueRefused, FailedStatus), match="power"):
        bench.RE(bps.mv(power, 2 * power.limits[1]))
    assert bench.truth["bench"]["optics"]["half_wave_plate"] == before


def test_power_hold_corrects_what_the_source_loses(bench, power, row):
    wanted = 0.5 * power.limits[1]
    bench.simulators.set("bench", attenuation=0.9 / 3000)
    try:
        bench.RE(power_hold(bench.meter, power, wanted, 2.5, period_s=0.05, gain=0.7))
    finally:
        bench.simulators.set("bench", attenuation=1 / 3000)
    found, events = row(bench, "power_hold"), bench.events()
    assert events[0]["meter_power"] == pytest.approx(0.9 * wanted, rel=0.02)
    assert events[-1]["meter_power"] == pytest.approx(wanted, rel=0.02)
    assert events[-1]["power_command"] == pytest.approx(wanted / 0.9, rel=0.03)
    assert found["points"] == len(events)
    # A machine that stands still leaves time for a few points only, of which the first are off.
    assert 0.2 < found["held"] < 1.0
    assert found["largest_deviation"] == pytest.approx(0.1 * wanted, rel=0.2)


def test_power_that_cannot_be_held_ends_the_run_as_failed(bench, power):
    wanted = 0.9 * power.limits[1]
    bench.simulators.set("bench", attenuation=0.5 / 3000)
    try:
        with pytest.raises(PowerOutOfReach, match=r"Look for what takes the light away") as caught:
            bench.RE(power_hold(bench.meter, power, wanted, 5.0, period_s=0.0, gain=1.0))
    finally:
        bench.simulators.set("bench", attenuation=1 / 3000)
    assert caught.value.needed > caught.value.high
    assert bench.stop_document()["exit_status"] == "fail"
    assert len(bench.events()) >= 1
    with pytest.raises(PlanArgumentError, match="power = "):
        bench.RE(power_hold(bench.meter, power, 3 * wanted, 5.0))
    with pytest.raises(PlanArgumentError, match="hwp: must be a device in W, as meter_power is; hwp is in deg"):
        bench.RE(power_hold(bench.meter, bench.hwp, wanted, 5.0))


def test_calibrations_that_are_none_are_refused(tmp_path):
    with pytest.raises(CalibrationUnusable, match="finite numbers") as caught:
        PowerCalibration(angle_deg=float("nan"), amplitude=1e-3, offset=0.0)
    assert "tandem run calibrate_half_wave_plate" in str(caught.value)
    with pytest.raises(CalibrationUnusable, match="no amplitude"):
        PowerCalibration.from_result({"angle": 1.0, "offset": 0.0})
    with pytest.raises(CalibrationUnusable, match="nothing to be set"):
        PowerCalibration(angle_deg=1.0, amplitude=0.0, offset=0.0)
    (tmp_path / "x.json").write_text("{]")
    with pytest.raises(CalibrationUnusable, match=r"x\.json: it holds no calibration"):
        PowerCalibration.load(tmp_path / "x.json")
    with pytest.raises(CalibrationUnusable, match="x2"):
        PowerCalibration.load(tmp_path / "x2.json")


class StoredRun(dict):
    """A run as the catalog gives it: streams by name, each read as a dataset."""

    def __init__(self, **streams):
        super().__init__({name: SimpleNamespace(read=lambda data=data: data) for name, data in streams.items()})
        self.metadata = {"start": {"uid": "0123-run"}}


def test_a_calibration_is_read_from_the_run_that_stored_it():
    columns = {"signal": ["a_power", "b_power"], "angle": [8.3, 9.3], "amplitude": [1e-3, 2e-3], "offset": [1e-6, 2e-6]}
    result = xarray.Dataset({name: ("time", values) for name, values in columns.items()})
    run = StoredRun(primary=xarray.Dataset(), result_half_wave_plate=result)
    found = calibration_from_run(run, "b_power")
    assert (found.angle_deg, found.amplitude, found.offset) == (9.3, 2e-3, 2e-6)
    assert (found.signal, found.run_uid) == ("b_power", "0123-run")
    for signal in (None, "c_power"):
        with pytest.raises(CalibrationUnusable, match=r"0123-run: give one signal of a_power, b_power, not"):
            calibration_from_run(run, signal)
    with pytest.raises(CalibrationUnusable, match="the run has no stream result_half_wave_plate"):
        calibration_from_run(StoredRun(primary=xarray.Dataset()))
