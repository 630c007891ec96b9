"""PVCAM cameras: regions of interest and trigger modes, as the vendor's library has them.

Source: Teledyne Photometrics' PVCAM and its Python wrapper pyvcam 2.3.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from devices.protocols.errors import ValueRefused

INSTRUMENT = "PVCAM camera"

TriggerMode = Literal["INTERNAL", "EDGE"]
TRIGGER_MODES: tuple[TriggerMode, ...] = ("INTERNAL", "EDGE")

EXPOSURE_MODES: Mapping[TriggerMode, tuple[str, ...]] = {
    "INTERNAL": ("Internal Trigger", "Timed"),
    "EDGE": ("Edge Trigger", "Strobe"),
}
"""What the vendor calls the trigger modes, on newer cameras and on older ones."""


def refused(setting: str, value: object, allowed: str) -> ValueRefused:
    """Return the error for a setting that a camera cannot have."""
    return ValueRefused(setting, value, allowed, instrument=INSTRUMENT)


@dataclass(frozen=True)
class Region:
    """A region of interest as PVCAM has it: ends are inclusive, coordinates count unbinned pixels from 0.

    Parameters
    ----------
    s1, s2
        First and last pixel in the serial direction (columns).
    sbin
        Columns that are added up to one pixel.
    p1, p2
        First and last pixel in the parallel direction (rows).
    pbin
        Rows that are added up to one pixel.

    Raises
    ------
    ValueRefused
        When an end lies before its beginning, a binning is below 1, or a bin would not be full: nothing is cut off
        silently.
    """

    s1: int
    s2: int
    sbin: int
    p1: int
    p2: int
    pbin: int

    def __post_init__(self) -> None:
        for first, last, binning, direction in ((self.s1, self.s2, self.sbin, "s"), (self.p1, self.p2, self.pbin, "p")):
            if not 0 <= first <= last:
                raise refused("region", self.astuple(), f"0 <= {direction}1 <= {direction}2")
            if binning < 1:
                raise refused("region", self.astuple(), f"a {direction}bin of 1 or more")
            if excess := (last - first + 1) % binning:
                full = last - excess
                alternatives = f"{full} or {full + binning}" if full >= first else f"{full + binning}"
                raise refused("region", self.astuple(), f"{direction}2 = {alternatives}, where the last bin is full")

    @classmethod
    def parse(cls, value: Region | Iterable[int]) -> Region:
        """Return the region for six whole numbers: s1, s2, sbin, p1, p2, pbin."""
        if isinstance(value, Region):
            return value
        try:
            return cls(*(operator.index(number) for number in value))
        except TypeError:
            raise refused("region", value, "six whole numbers s1, s2, sbin, p1, p2, pbin") from None

    @classmethod
    def whole(cls, sensor_size: tuple[int, int], binning: int = 1) -> Region:
        """Return the largest region of a sensor of so many columns and rows."""
        columns, rows = (size - size % binning for size in sensor_size)
        return cls(0, columns - 1, binning, 0, rows - 1, binning)

    @property
    def width(self) -> int:
        """Unbinned pixels in the serial direction."""
        return self.s2 - self.s1 + 1

    @property
    def height(self) -> int:
        """Unbinned pixels in the parallel direction."""
        return self.p2 - self.p1 + 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame, in binned pixels."""
        return self.height // self.pbin, self.width // self.sbin

    def astuple(self) -> tuple[int, int, int, int, int, int]:
        """Return s1, s2, sbin, p1, p2, pbin."""
        return self.s1, self.s2, self.sbin, self.p1, self.p2, self.pbin

    def check(self, sensor_size: tuple[int, int], binnings: Collection[tuple[int, int]] | None) -> None:
        """Raise ValueRefused when a sensor of so many columns and rows does not have this region.

        Parameters
        ----------
        sensor_size
            Columns and rows.
        binnings
            Serial and parallel binnings the camera can do; None for any.
        """
        columns, rows = sensor_size
        if self.s2 >= columns or self.p2 >= rows:
            raise refused("region", self.astuple(), f"s2 up to {columns - 1} and p2 up to {rows - 1}")
        if binnings is not None and (self.sbin, self.pbin) not in binnings:
            known = ", ".join(f"{sbin}x{pbin}" for sbin, pbin in binnings)
            raise refused("region", self.astuple(), f"a binning of {known}")
