"""Power behind a half-wave plate and a polarizer: the calibration, and what both generations make columns of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from event_model import DataKey

from devices.protocols.errors import ValueRefused

PowerUnits = Literal["W", "fraction"]

_PERIOD_DEG = 90.0
_HALF_PERIOD_DEG = 45.0
_PRECISION = {"W": 9, "fraction": 5}
_NUMBERS = ("angle_deg", "amplitude", "offset")
_RESULT = {"angle_deg": "angle", "amplitude": "amplitude", "offset": "offset"}


class CalibrationUnusable(ValueError):
    """A calibration that no power can be set with; `problem` says why."""

    def __init__(self, problem: str, source: str = "") -> None:
        self.problem = problem
        self.source = source
        where = f"{source}: " if source else ""
        super().__init__(f"{where}{problem} Calibrate the half-wave plate again: tandem run calibrate_half_wave_plate.")


@dataclass(frozen=True, kw_only=True)
class PowerCalibration:
    """`offset + amplitude * cos(2 * (position - angle_deg))**2` in W, positions of the plate in degrees."""

    angle_deg: float
    """Position of largest power."""
    amplitude: float
    """Largest minus smallest power in W."""
    offset: float
    """Smallest power in W."""
    signal: str = ""
    """Column that was calibrated."""
    run_uid: str = ""
    """Run in which."""

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers.values()):
            told = ", ".join(f"{name} = {value!r}" for name, value in numbers.items())
            raise CalibrationUnusable(f"a calibration consists of finite numbers, not {told}.", self.run_uid)
        if self.amplitude <= 0:
            raise CalibrationUnusable(f"the amplitude {self.amplitude:g} W leaves nothing to be set.", self.run_uid)

    @classmethod
    def from_result(cls, row: Mapping[str, Any], run_uid: str = "") -> PowerCalibration:
        """Make it from an event of the stream `result_half_wave_plate`.

        Raises
        ------
        CalibrationUnusable
            The event has not what is needed.
        """
        missing = [name for name in _RESULT.values() if name not in row]
        if missing:
            raise CalibrationUnusable(f"there is no {' and no '.join(missing)} in the result.", run_uid)
        numbers = {name: float(row[stored]) for name, stored in _RESULT.items()}
        return cls(**numbers, signal=str(row.get("signal", "")), run_uid=run_uid)

    @classmethod
    def load(cls, path: str | Path) -> PowerCalibration:
        """Read it from a file that :meth:`save` has written.

        Raises
        ------
        CalibrationUnusable
            There is no such file, or it holds no calibration.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, CalibrationUnusable):
                raise
            raise CalibrationUnusable(f"it holds no calibration ({error}).", str(path)) from error

    def save(self, path: str | Path) -> None:
        """Write it to a small JSON file."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @property
    def largest(self) -> float:
        """Largest power in W."""
        return self.offset + self.amplitude

    def power(self, position_deg: float) -> float:
        """Return the power in W at a position of the plate."""
        return self.offset + self.amplitude * math.cos(math.radians(2 * (position_deg - self.angle_deg))) ** 2

    def position(self, power_w: float) -> float:
        """Return the position of the plate for a power in W: within 45 degrees after that of largest power."""
        share = min(1.0, max(0.0, (power_w - self.offset) / self.amplitude))
        return self.angle_deg % _PERIOD_DEG + math.degrees(math.acos(math.sqrt(share))) / 2


class PowerScale:
    """How a power positioner of either generation counts: names, units, limits and columns are the same.

    Parameters
    ----------
    name
        Name of the positioner, and of its column.
    rotator
        Name of the rotator.
    calibration
        Power by position.
    units
        `W`, or `fraction` of the largest power.
    rotator_limits
        Lowest and highest position in degrees; None for no limits.

    Raises
    ------
    CalibrationUnusable
        The rotator cannot go where the calibration needs it.
    """

    def __init__(
        self,
        name: str,
        rotator: str,
        calibration: PowerCalibration,
        units: PowerUnits,
        rotator_limits: tuple[float, float] | None,
    ) -> None:
        if units not in _PRECISION:
            raise ValueRefused("units", units, "'W' or 'fraction'", instrument=name)
        self.name = name
        self.calibration = calibration
        self.units = units
        self.precision = _PRECISION[units]
        self._unit_w = 1.0 if units == "W" else calibration.largest
        self._rotator = rotator
        self._shift = _shift_into(calibration, rotator, rotator_limits)

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value that may be asked for."""
        return self.calibration.offset / self._unit_w, self.calibration.largest / self._unit_w

    def check(self, value: float) -> float:
        """Return the value if it is a number within the limits; ValueRefused otherwise."""
        low, high = self.limits
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not low <= number <= high:
            units = "" if self.units == "fraction" else f" {self.units}"
            raise ValueRefused("power", value, f"{low:.4g} to {high:.4g}{units}", instrument=self.name)
        return number

    def position(self, value: float) -> float:
        """Return the position of the rotator in degrees for a value."""
        return self.calibration.position(self.check(value) * self._unit_w) + self._shift

    def value(self, position_deg: float) -> float:
        """Return the value at a position of the rotator in degrees."""
        return self.calibration.power(position_deg) / self._unit_w

    def describe(self) -> dict[str, DataKey]:
        """Return the data keys: the value, and the rotator's position."""
        low, high = self.limits
        value: dict[str, Any] = {
            **self._key("number", "<f8", None if self.units == "fraction" else self.units),
            "precision": self.precision,
            "limits": {"control": {"low": low, "high": high}},
        }
        return {self.name: value, f"{self.name}_rotator": self._key("number", "<f8", "deg")}  # type: ignore[dict-item]

    def read(self, position_deg: float, timestamp: float) -> dict[str, dict[str, Any]]:
        """Return the readings at a position of the rotator that was measured at that time."""
        values = {self.name: self.value(position_deg), f"{self.name}_rotator": position_deg}
        return {key: {"value": value, "timestamp": timestamp} for key, value in values.items()}

    def describe_configuration(self) -> dict[str, DataKey]:
        """Return the data keys of the calibration."""
        numbers = {"angle": "deg", "amplitude": "W", "offset": "W"}
        keys = {f"{self.name}_{name}": self._key("number", "<f8", units) for name, units in numbers.items()}
        return {**keys, f"{self.name}_calibration_run": self._key("string", "|S40", None)}

    def read_configuration(self, timestamp: float) -> dict[str, dict[str, Any]]:
        """Return the calibration."""
        known = self.calibration
        values: dict[str, Any] = {
            f"{self.name}_angle": known.angle_deg,
            f"{self.name}_amplitude": known.amplitude,
            f"{self.name}_offset": known.offset,
            f"{self.name}_calibration_run": known.run_uid,
        }
        return {key: {"value": value, "timestamp": timestamp} for key, value in values.items()}

    def _key(self, dtype: Any, dtype_numpy: str, units: str | None) -> DataKey:
        key = DataKey(source=f"half_wave_plate:{self._rotator}", dtype=dtype, shape=[], dtype_numpy=dtype_numpy)
        if units is not None:
            key["units"] = units
        return key


def _shift_into(calibration: PowerCalibration, rotator: str, limits: tuple[float, float] | None) -> float:
    """Return by which multiple of its period the plate's range is shifted to lie within the limits."""
    if limits is None or not limits[0] < limits[1]:
        return 0.0
    low, high = limits
    first = calibration.angle_deg % _PERIOD_DEG
    shift = math.ceil((low - first) / _PERIOD_DEG) * _PERIOD_DEG if first < low else 0.0
    if first + shift + _HALF_PERIOD_DEG > high:
        raise CalibrationUnusable(
            f"{rotator} would have to go from {first + shift:.4g} to {first + shift + _HALF_PERIOD_DEG:.4g} deg, and "
            f"its limits are {low:g} and {high:g}. Widen them.",
            calibration.run_uid,
        )
    return shift
