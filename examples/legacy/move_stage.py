"""Moves a stage with pymeasure's driver of the ESP300: `python move_stage.py PORT`."""

import json
import sys

from pymeasure.instruments.newport import ESP300

controller = ESP300(
    f"ASRL{sys.argv[1]}::INSTR",
    visa_library="@py",
    baud_rate=19200,
    read_termination="\r\n",
    write_termination="\r",
    timeout=5000,
)
x = controller.x
x.enable()
positions = []
for target in (1.0, 2.5, 0.0):
    x.position = target
    x.wait_for_stop(interval=0.01)
    positions.append(round(x.position, 3))
print(json.dumps({"units": str(x.units), "positions": positions}))
controller.adapter.close()
