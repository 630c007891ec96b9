"""What is read back from a journal line equals what was written, type by type."""

from __future__ import annotations

import datetime
import enum
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import UnrecordableValue
from catalog.encoding import decode, encode


def round_trip(value):
    name, document = decode(encode("event", {"value": value}))
    assert name == "event"
    return document["value"]


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.1),
        np.float32(0.1),
        np.float16(0.5),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.str_("état"),
        np.complex128(1 + 2j),
        np.datetime64("2025-11-21T18:09:00"),
        np.bytes_(b"ab"),
        np.longdouble("1.25"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numpy_scalars_keep_value_and_type(value):
    restored = round_trip(value)
    assert type(restored) is type(value)
    assert restored == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<i4").reshape(2, 3),
        np.arange(6, dtype=">f8").reshape(3, 2).T,
        np.array([np.nan, np.inf, -np.inf, -0.0]),
        np.zeros((0, 4)),
        np.array(7.5),
        np.array(["a", "long text"]),
        np.array([True, False]),
        np.array([(1, 2.5)], dtype=[("n", "<i4"), ("x", "<f8", (1,))]),
        np.array(["2025-01-01"], dtype="datetime64[D]"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_keep_dtype_shape_and_every_bit(array):
    restored = round_trip(array)
    assert restored.dtype == array.dtype
    assert restored.shape == array.shape
    assert restored.tobytes() == array.tobytes()
    assert restored.flags.writeable


def test_arrays_of_objects_keep_their_items():
    array = np.array([[1, "two"], [None, (3,)]], dtype=object)
    restored = round_trip(array)
    assert restored.shape == (2, 2)
    assert restored.tolist() == array.tolist()


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -0.0,
        2**80,
        (1, ("a", [2])),
        {"a": {1: "one", (2, 3): "tuple"}},
        {"~tuple": [1]},
        {"~dict": []},
        {"~": 1, "b": 2},
        {3, 1, 2},
        b"\x00\xff",
        1 - 2j,
        Path("/data/x"),
        datetime.datetime(2025, 11, 21, 18, 9, tzinfo=datetime.UTC),
        datetime.date(2025, 11, 21),
        "line\nbreak \ud800 \x00",
        None,
    ],
    ids=repr,
)
def test_python_values_come_back_equal_and_of_the_same_type(value):
    restored = round_trip(value)
    assert type(restored) is type(value) or isinstance(value, Path)
    assert repr(restored) == repr(value)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.sampled_from(["~tuple", "~dict"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_like)
def test_any_nesting_comes_back_the_same(value):
    assert repr(round_trip(value)) == repr(value)


def test_a_line_is_one_line_of_json():
    line = encode("start", {"sample": "a\nb", "n": np.int64(3), "x": 0.5})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {"name": "start", "doc": {"sample": "a\nb", "n": {"~int64": 3}, "x": 0.5}}


def test_enumerations_are_stored_as_the_value_they_equal():
    class Mode(enum.StrEnum):
        FAST = "fast"

    assert round_trip(Mode.FAST) == Mode.FAST
    assert type(round_trip(Mode.FAST)) is str


def test_a_value_without_an_exact_form_is_refused_by_name():
    with pytest.raises(UnrecordableValue) as caught:
        encode("start", {"sample": {"holder": [object()]}})
    assert caught.value.where == "start.sample.holder.0"
    assert str(caught.value).startswith("'start.sample.holder.0' is a builtins.object, which cannot be recorded.")


@pytest.mark.parametrize(
    "line",
    [
        b"[]\n",
        b"{}\n",
        b'{"name": 1, "doc": {}}\n',
        b'{"name": "a", "doc": 3}\n',
        b'{"name": "a", "doc": {"x": {"~array": ["no type", [1], ""]}}}\n',
        b'{"name": "a", "doc": {"x": {"~tuple": 5}}}\n',
        b'{"name": "a", "doc": {"x": {"~time": 5}}}\n',
    ],
)
def test_a_line_that_is_no_document_is_refused(line):
    with pytest.raises(ValueError, match="no document"):
        decode(line)
