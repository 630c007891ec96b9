"""Calibrate a half-wave plate, set a power in watt with it, and hold that power against drift."""

import bluesky.plan_stubs as bps

from plans.optics import calibrate_half_wave_plate, power_hold
from profiles.power import power_positioner
from profiles.session import Session

with Session.open("sim", simulate=True) as session:
    RE, devices = session.RE, session.devices
    RE(bps.mv(devices.polarizer, 12.7))
    run = RE(calibrate_half_wave_plate([devices.power_v4], devices.hwp, num=19)).run_start_uids[0]
    power = power_positioner(devices.hwp, session.catalog[run])
    power.scale.calibration.save(session.data_dir / "hwp.json")
    RE(power_hold(devices.power_v4, power, 0.4e-3, duration_s=20, sample="none"))
    held = session.catalog[-1]["result_power_hold"].read()
    print(f"held {float(held['mean'][0]) * 1e3:.4f} mW, {float(held['held'][0]):.0%} of the time within 2 %")
