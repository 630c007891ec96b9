"""One measurement, whatever generation of driver it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from coexistence.config import Generation

MeasurementKind = Literal["scalar", "array", "image"]


class FrameReference(NamedTuple):
    """Images that lie in a file: frames `start` to `stop` (exclusive) of what is at `uri`."""

    uri: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class UnifiedMeasurement:
    """A value that an instrument was found to have.

    Attributes
    ----------
    instrument
        Id of the instrument.
    signal
        What of it was measured, such as `power`; empty for a column that has the instrument's id as its name.
    value
        A number, text or truth value; an array of one (`kind` is `array`) or more dimensions (`image`); or a
        :class:`FrameReference` for images that lie in a file.
    timestamp
        When the reply was complete, in s since 1970.
    units
        Of the value; None for what has none.
    generation
        `v2` or `v4`; None for a device from elsewhere of which nobody said it.
    run, stream
        Uid of the run and name of its stream that the measurement belongs to; None outside of runs.
    """

    instrument: str
    signal: str
    value: Any
    timestamp: float
    units: str | None = None
    generation: Generation | None = None
    run: str | None = None
    stream: str | None = None

    @property
    def column(self) -> str:
        """The name of the column in runs."""
        return f"{self.instrument}_{self.signal}" if self.signal else self.instrument

    @property
    def kind(self) -> MeasurementKind:
        """Whether the value is one number or word, a list of numbers, or an image."""
        if isinstance(self.value, FrameReference):
            return "image"
        dimensions = np.ndim(self.value) if not isinstance(self.value, str | bytes) else 0
        return ("scalar", "array")[dimensions] if dimensions < 2 else "image"
