"""Data keys: what a descriptor says of one column, written in one place for both generations."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from event_model import DataKey

from devices.protocols.field import Field

_DTYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
_NUMPY_DTYPES: dict[type, str] = {bool: "|b1", int: "<i8", float: "<f8", str: "|S40"}


def source(wire: str, command: str) -> str:
    """Return the source of a signal: the wire and the command that asks for it."""
    return f"wire:{wire}#{command}"


def field_data_key(field: Field[Any], source: str) -> DataKey:
    """Return the data key of a field's column."""
    key: dict[str, Any] = {
        "source": source,
        "dtype": "array" if field.shape else _DTYPES[field.datatype],
        "shape": list(field.shape),
        "dtype_numpy": _NUMPY_DTYPES[float if field.shape else field.datatype],
    }
    if field.units is not None:
        key["units"] = field.units
    if field.precision is not None:
        key["precision"] = field.precision
    if field.limits is not None:
        low, high = field.limits
        key["limits"] = {"control": {"low": float(low), "high": float(high)}}
    if field.choices and field.datatype is str:
        key["choices"] = list(field.choices)
    return cast(DataKey, key)


def value_data_key(value: Any, source: str, units: str | None, precision: int | None) -> DataKey:
    """Return the data key of a value nothing is known about but itself.

    Raises
    ------
    TypeError
        When the value is neither a number, a text, nor an array of numbers.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biufSU":
        raise TypeError(
            f"a value of type {type(value).__name__} ({source}) cannot be recorded: "
            "only numbers, text and arrays of numbers can."
        )
    if array.shape:
        dtype = "array"
    else:
        dtype = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}.get(array.dtype.kind, "string")
    text = array.dtype.kind in "SU"
    key: dict[str, Any] = {
        "source": source,
        "dtype": dtype,
        "shape": list(array.shape),
        "dtype_numpy": "|S40" if text else array.dtype.str,
    }
    if units is not None:
        key["units"] = units
    if precision is not None:
        key["precision"] = precision
    return cast(DataKey, key)
