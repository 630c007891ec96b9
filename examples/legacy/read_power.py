"""Reads the 1830-C power meter with pyserial, as before there were devices: `python read_power.py PORT [COUNT]`."""

import json
import sys

import serial


class PowerMeter:
    def __init__(self, path):
        self.port = serial.Serial(path, 9600, timeout=2)
        self.port.reset_input_buffer()
        self.port.write(b"E0\n")  # no echo

    def ask(self, command):
        self.port.write(command.encode() + b"\n")
        return self.port.readline().decode().strip()

    @property
    def power(self):
        return float(self.ask("D?"))

    @property
    def wavelength(self):
        return int(self.ask("W?"))


meter = PowerMeter(sys.argv[1])
count = int(sys.argv[2]) if len(sys.argv) > 2 else 3
print(json.dumps({"wavelength": meter.wavelength, "powers": [meter.power for _ in range(count)]}))
meter.port.close()
