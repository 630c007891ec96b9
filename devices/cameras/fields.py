"""What the values of a camera are called and mean, the same for both generations."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from event_model import DataKey

from devices.cameras.frame_file import PIXEL
from devices.data_keys import field_data_key, value_data_key
from devices.protocols.field import Field, Fields
from devices.protocols.pvcam import INSTRUMENT, TRIGGER_MODES, Region

COUNTS = "counts"


class RegionField(Field[Any]):
    """The region: six whole numbers that are set at once."""

    def check(self, value: Any) -> Any:
        """Return the region for six whole numbers; ValueRefused when there is none."""
        return Region.parse(value)


def _field(name: str, datatype: Any, **properties: Any) -> Field[Any]:
    return Field(name=name, datatype=datatype, command=name, instrument=INSTRUMENT, **properties)


FRAME_VALUES = ("mean", "max", "sum", "frame_number", "dropped_frames")
"""Values that each frame has, in the order of their columns."""
SETTINGS = {"exposure": "exposure_ms", "region": "region", "trigger_mode": "trigger_mode"}
"""Fields that can be set, with their names at the camera."""

FIELDS = Fields(
    _field("exposure", int, units="ms", limits=(0, 86_400_000)),
    RegionField(name="region", datatype=str, command="region", instrument=INSTRUMENT),
    _field("trigger_mode", str, choices=TRIGGER_MODES),
    _field("temperature", float, units="degC", precision=1),
    _field("serial_number", str),
    _field("mean", float, units=COUNTS, precision=3),
    _field("max", int, units=COUNTS),
    _field("sum", int, units=COUNTS),
    _field("frame_number", int),
    _field("dropped_frames", int),
    _field("frame_rate", float, units="Hz", precision=3),
    _field("frames_written", int),
)


def camera_source(camera: str, field: str) -> str:
    """Return the source of a signal: the camera and what is asked of it."""
    return f"camera:{camera}#{field}"


def camera_data_key(field: Field[Any], source: str) -> DataKey:
    """Return the data key of a field's column."""
    if isinstance(field, RegionField):
        return value_data_key(np.zeros(6, np.int64), source, None, None)
    return field_data_key(field, source)


def image_data_key(camera: str, shape: tuple[int, int], frames: int, external: str) -> DataKey:
    """Return the data key of images: for each event so many frames of these rows and columns."""
    key = {
        "source": camera_source(camera, "image"),
        "dtype": "array",
        "shape": [frames, *shape],
        "dtype_numpy": PIXEL.str,
        "units": COUNTS,
        "external": external,
    }
    return cast(DataKey, key)
