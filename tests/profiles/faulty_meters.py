"""Meters from elsewhere for a configuration: they read one truth, and some of them wrongly."""

import random
import time
from typing import Literal

import numpy as np
from ophyd_async.core import Device

Fault = Literal["none", "scale", "lag", "outliers", "unit"]

LAG_S = 0.05
OUTLIERS_EVERY = 202
"""Not 200: wild readings then take turns between the ends and the middle of rows; at the ends the truth may as well
have changed."""
TURNS_A_SECOND = 0.4


class Meter:
    """Reads a power that swings for ever, with a noise of 3 in 10 000.

    Parameters
    ----------
    fault
        What is wrong with it: a scale 2 % too large, the power of 50 ms ago, a tenth of the power in one of 202
        readings, or a data key that says mW.
    duration_s
        How long a reading takes.
    """

    parent = None

    def __init__(self, name: str, fault: Fault = "none", duration_s: float = 0.0) -> None:
        self.name = name
        self._fault = fault
        self._duration_s = duration_s
        self._readings = 0
        self._random = random.Random(name)

    def read(self):
        time.sleep(self._duration_s)
        now = time.time()
        self._readings += 1
        when = now - LAG_S if self._fault == "lag" else now
        power = (1.0 + 0.3 * np.sin(2 * np.pi * TURNS_A_SECOND * when)) * self._random.gauss(1, 3e-4)
        if self._fault == "scale":
            power *= 1.02
        if self._fault == "outliers" and self._readings % OUTLIERS_EVERY == 5:
            power *= 0.1
        return {f"{self.name}_power": {"value": float(power), "timestamp": now}}

    def describe(self):
        unit = "mW" if self._fault == "unit" else "W"
        return {f"{self.name}_power": {"source": "elsewhere", "dtype": "number", "shape": [], "units": unit}}

    def read_configuration(self):
        return {}

    def describe_configuration(self):
        return {}


class Twin(Device):
    """A device of ophyd-async around such a meter."""

    def __init__(self, name: str, fault: Fault = "none", duration_s: float = 0.0) -> None:
        self._meter = Meter(name, fault, duration_s)
        super().__init__(name=name)

    async def read(self):
        return self._meter.read()

    async def describe(self):
        return self._meter.describe()

    async def read_configuration(self):
        return {}

    async def describe_configuration(self):
        return {}
